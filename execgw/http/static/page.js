// Asks for the processes again and again, and puts them in place without moving what the reader is at.
"use strict";

const EVERY = 1500; // milliseconds
const place = document.getElementById("processes");
const live = document.getElementById("live");

function say(word, good) {
  live.textContent = word;
  live.classList.toggle("lost", !good);
}

function show(text) {
  const at = document.activeElement;
  const form = at && place.contains(at) ? at.closest("article") : null;
  const focused = form && at.value ? [form.id, at.value] : null;
  const scrolled = new Map();
  for (const pre of place.querySelectorAll("pre")) {
    const atEnd = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 4;
    scrolled.set(pre.id, atEnd ? Infinity : pre.scrollTop);
  }
  place.innerHTML = text; // the server has escaped all of it, and the policy allows no script in it
  for (const pre of place.querySelectorAll("pre")) {
    const top = scrolled.get(pre.id);
    pre.scrollTop = top === undefined || top === Infinity ? pre.scrollHeight : top;
  }
  if (focused) {
    const again = document.querySelector(`#${CSS.escape(focused[0])} button[value="${CSS.escape(focused[1])}"]`);
    if (again) again.focus({ preventScroll: true });
  }
}

async function look() {
  try {
    const answer = await fetch("processes", { credentials: "same-origin", cache: "no-store" });
    if (answer.status === 401) {
      location.reload();
      return;
    }
    if (!answer.ok) throw new Error(String(answer.status));
    show(await answer.text());
    say("live", true);
  } catch (error) {
    say("the server does not answer", false);
  }
}

async function act(event) {
  const form = event.target;
  const button = event.submitter;
  if (!place.contains(form) || !button) return; // leaving goes the plain way
  event.preventDefault();
  const name = form.closest("article").querySelector("code").textContent;
  if (button.value === "end" && !confirm(`End the process ${name}?`)) return;
  button.disabled = true;
  const fields = new URLSearchParams(new FormData(form));
  fields.set("do", button.value);
  try {
    await fetch("act", { method: "POST", body: fields, credentials: "same-origin" });
  } finally {
    await look();
  }
}

document.addEventListener("submit", act);
for (const pre of place.querySelectorAll("pre")) pre.scrollTop = pre.scrollHeight;
setInterval(() => {
  if (!document.hidden) look();
}, EVERY);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) look();
});

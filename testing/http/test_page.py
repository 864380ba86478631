"""The live page, in a real Chromium, and what it refuses to others."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode

import pytest
from serve_command import Answer, ExecServer, execgw

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WORDS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
WORDS += ["--disable-background-networking", "--disable-component-update"]
MANY_LINES = "import sys\nfor n in range(40): print('line', n)\nsys.stdout.flush()\n"
EVIL = "</pre><script>window.evil = 1</script><img src=x onerror='window.evil = 2'> & \x1b[31mred\x1b[0m \x07"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[ExecServer]:
    policy = "[server]\nper_token = 64\n[specs.python]\n[specs.analysis]\n"
    with ExecServer(tmp_path_factory.mktemp("page"), policy=policy) as server:
        yield server


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        if os.environ.get("CI"):
            pytest.fail("there is no playwright; pip install -e .[dev]")
        pytest.skip("there is no playwright; pip install -e .[dev]")
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("there is no chromium; apt-get install chromium fonts-dejavu-core")
        pytest.skip("there is no chromium; apt-get install chromium fonts-dejavu-core")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=WORDS)
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium, server):
    """browse(token) is the page as that one sees it, after the question; Chromium must not complain about it."""
    contexts: list = []
    complaints: list[str] = []

    def browse(token: str | None = None, width: int = 1280, **more):
        context = chromium.new_context(viewport={"width": width, "height": 850}, **more)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: complaints.append(said.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{server.url}/")
        if token:
            page.fill("#token", token)
            page.click("text=Show the processes")
            page.wait_for_selector("#processes")
        return page

    browse.complaints = complaints
    yield browse
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def joe(server: ExecServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """The token of somebody who has no processes yet; they are ended after the test."""
    name = re.sub(r"\W", "", request.node.name)[:60]
    token = execgw("token", "--token-file", server.tokens, "new", name, "--scopes", "popen,exec").stdout.strip()
    yield token
    for process in server.ask("GET", "/exec", token=token).json["processes"]:
        server.ask("DELETE", f"/exec/{process['pid']}", token=token)


def card(page, pid: str):
    return page.locator(f"#p-{pid[:8]}")


def button(page, pid: str, name: str):
    return card(page, pid).get_by_role("button", name=name)


# -- what one sees


def test_it_asks_for_the_token_once(browse, server: ExecServer, joe: str) -> None:
    page = browse()

    page.fill("#token", joe)
    page.keyboard.press("Enter")
    page.wait_for_selector("text=No process runs.")
    page.reload()

    page.wait_for_selector("text=No process runs.")
    assert page.locator("#token").count() == 0
    assert joe not in page.content() and joe not in page.url


def test_it_shows_each_process_with_what_there_is_to_know(browse, server: ExecServer, joe: str) -> None:
    busy = server.run(f"{MANY_LINES}channel.send('x' * 3000)\nchannel.receive()", joe)
    idle = server.popen(joe, spec="analysis")

    page = browse(joe)
    card(page, busy).locator("text=line 39").wait_for()

    text = card(page, busy).inner_text()
    assert re.search(r"BUSY\s+python", text)
    assert re.search(r"age\s+\d+ s\s+owner\s+test_it_shows", text)
    assert re.search(r"queue\s+1 in 3 KiB", text)
    assert re.search(r"memory\s+\d+ MiB", text)
    assert "line 39" in text and "line 0\n" not in text
    assert re.search(r"IDLE\s+analysis", card(page, idle).inner_text())
    assert busy not in page.locator("article").first.inner_text()  # the rest of a PID is a secret; the form has it


def test_it_changes_by_itself(browse, server: ExecServer, joe: str) -> None:
    page = browse(joe)
    page.wait_for_selector("text=No process runs.")

    pid = server.run("import os; print('begun', flush=True); channel.receive(); os.kill(os.getpid(), 9)", joe)
    card(page, pid).locator("text=begun").wait_for()
    server.ask("POST", f"/exec/{pid}", "1", joe)

    card(page, pid).locator("text=the process was killed by SIGKILL").wait_for()
    assert "ENDED" in card(page, pid).inner_text()
    assert card(page, pid).locator("button").count() == 0


def test_the_buttons_interrupt_and_end(browse, server: ExecServer, joe: str) -> None:
    source = "try:\n channel.receive()\nexcept KeyboardInterrupt: print('interrupted', flush=True)\nchannel.receive()"
    pid = server.run(source, joe)
    page = browse(joe)

    button(page, pid, "Interrupt").click()
    card(page, pid).locator("text=interrupted").wait_for()

    asked = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    button(page, pid, "End").click()
    assert asked == [f"End the process {pid[:8]}?"]
    assert server.ask("GET", f"/exec/{pid}/state", token=joe).json["state"] == "busy"

    page.once("dialog", lambda dialog: dialog.accept())
    button(page, pid, "End").click()
    card(page, pid).locator("text=asked for it on the page").wait_for()


def test_the_buttons_work_without_scripts(browse, server: ExecServer, joe: str) -> None:
    pid = server.run("channel.receive()", joe)
    page = browse(joe, java_script_enabled=False)

    button(page, pid, "End").click()

    assert "asked for it on the page" in card(page, pid).inner_text()


def test_what_a_process_prints_is_text_whatever_it_is(browse, server: ExecServer, joe: str) -> None:
    pid = server.run(f"print({EVIL!r}, flush=True); channel.receive()", joe)
    page = browse(joe)

    pre = card(page, pid).locator("pre")
    pre.wait_for()

    assert pre.inner_text() == "</pre><script>window.evil = 1</script><img src=x onerror='window.evil = 2'> & red \\x07"
    assert page.evaluate("window.evil") is None


def test_one_sees_only_what_is_ones_own_but_for_an_admin(browse, server: ExecServer, joe: str) -> None:
    mine = server.popen()
    his = server.popen(joe)

    page = browse(joe)
    card(page, his).wait_for()
    assert card(page, mine).count() == 0

    page = browse(server.token)
    card(page, his).wait_for()
    assert card(page, mine).count() == 1
    server.ask("DELETE", f"/exec/{mine}")


@pytest.mark.parametrize("width", [320, 390, 800, 1600])
def test_it_fits_the_screen(browse, server: ExecServer, joe: str, width: int) -> None:
    pid = server.run("print('x' * 500, flush=True); channel.receive()", joe)
    page = browse(joe, width)
    card(page, pid).locator("pre").wait_for()

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for button in card(page, pid).locator("button").all():
        assert button.bounding_box()["height"] >= (44 if width < 500 else 32)  # what a thumb needs


def test_the_reader_is_not_moved_while_it_changes(browse, server: ExecServer, joe: str) -> None:
    pid = server.run(f"{MANY_LINES}while True: print(channel.receive(), flush=True)", joe)
    page = browse(joe)
    pre = card(page, pid).locator("pre")
    pre.locator("text=line 39").wait_for()
    pre.evaluate("pre => { pre.scrollTop = 5 }")
    button(page, pid, "Interrupt").focus()

    server.ask("POST", f"/exec/{pid}", '"something new"', joe)
    card(page, pid).locator("text=something new").wait_for()

    assert pre.evaluate("pre => pre.scrollTop") == 5
    assert page.evaluate("document.activeElement.value") == "interrupt"


def test_a_page_whose_token_is_revoked_asks_for_another(browse, server: ExecServer) -> None:
    token = execgw("token", "--token-file", server.tokens, "new", "gone").stdout.strip()
    page = browse(token)

    execgw("token", "--token-file", server.tokens, "revoke", "gone")

    page.wait_for_selector("#token")
    assert all("401" in text for text in browse.complaints)
    browse.complaints.clear()


def test_who_leaves_has_to_show_the_token_again(browse, server: ExecServer, joe: str) -> None:
    page = browse(joe)
    kept = page.context.cookies()

    page.get_by_role("button", name="Leave").click()
    page.wait_for_selector("#token")
    page.context.add_cookies(kept)
    page.reload()

    assert page.locator("#token").count() == 1


def test_the_cookie_is_for_this_page_alone(browse, server: ExecServer, joe: str) -> None:
    page = browse(joe)

    (cookie,) = page.context.cookies()

    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    assert joe not in cookie["value"]
    assert page.evaluate("document.cookie") == ""


def test_the_policy_of_the_page_stops_a_script_in_it(browse, server: ExecServer, joe: str) -> None:
    page = browse(joe)
    page.wait_for_selector("#processes")

    stopped = page.evaluate(
        """() => new Promise(done => {
            document.addEventListener("securitypolicyviolation", event => done(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "window.evil = 1";
            document.body.append(script);
        })"""
    )

    assert stopped.startswith("script-src")
    assert page.evaluate("window.evil") is None
    assert [text for text in browse.complaints if "Content Security Policy" not in text] == []
    browse.complaints.clear()  # this was one of the test


# -- without a browser


def submit(server: ExecServer, path: str, fields: dict[str, str], **headers: str) -> Answer:
    """What a form sends."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        head = {
            "Content-Type": "application/x-www-form-urlencoded",
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        connection.request("POST", path, urlencode(fields), head)
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def enter(server: ExecServer, token: str) -> tuple[str, str]:
    """A session: (its cookie, its form key)."""
    answer = submit(server, "/login", {"token": token})
    assert answer.status == 303, answer.text
    cookie = answer.headers["set-cookie"].partition(";")[0]
    page = server.ask("GET", "/", token="", headers={"Cookie": cookie}).text
    return cookie, re.findall(r"name='key' value='([^']+)'", page)[0]


def test_a_wrong_token_opens_no_session(server: ExecServer) -> None:
    answer = submit(server, "/login", {"token": "execgw_wrong"})

    assert answer.status == 401
    assert "set-cookie" not in answer.headers
    assert "does not know the token" in answer.text


@pytest.mark.parametrize("path", ["/", "/processes"])
def test_without_a_session_nothing_is_told(server: ExecServer, path: str) -> None:
    pid = server.popen()

    name = f"execgw_session_{server.port}"
    for headers in ({}, {"Cookie": f"{name}="}, {"Cookie": f"{name}={'x' * 43}"}):
        assert pid[:8] not in server.ask("GET", path, token="", headers=headers).text
    server.ask("DELETE", f"/exec/{pid}")


def test_another_site_can_neither_press_buttons_nor_log_in(server: ExecServer) -> None:
    pid = server.popen()
    cookie, key = enter(server, server.token)
    end = {"pid": pid, "do": "end"}

    assert submit(server, "/act", end, Cookie=cookie).status == 403
    assert submit(server, "/act", {**end, "key": "x" * len(key)}, Cookie=cookie).status == 403
    assert submit(server, "/act", {**end, "key": key}, Cookie=cookie, Origin="https://evil.example").status == 403
    assert submit(server, "/act", {**end, "key": key}, Cookie=cookie, Origin="null").status == 403
    assert submit(server, "/act", {**end, "key": key}).status == 303  # to the question
    assert submit(server, "/login", {"token": server.token}, Origin="https://evil.example").status == 403
    assert server.ask("GET", f"/exec/{pid}/state").json["state"] == "idle"

    assert submit(server, "/act", {**end, "key": key}, Cookie=cookie, Origin=server.url).status == 303
    assert server.ask("GET", f"/exec/{pid}/state").json["state"] == "ended"


def test_a_session_is_no_token(server: ExecServer) -> None:
    cookie, _ = enter(server, server.token)

    for path in ("/exec", "/metrics"):
        assert server.ask("GET", path, token="", headers={"Cookie": cookie}).status == 401
    assert server.ask("POST", "/popen", {}, token="", headers={"Cookie": cookie}).status == 401
    assert server.ask("GET", "/exec", token=cookie.partition("=")[2]).status == 401


def test_the_process_of_another_has_no_buttons_for_who_guesses(server: ExecServer, joe: str) -> None:
    pid = server.popen()
    cookie, key = enter(server, joe)

    foreign = submit(server, "/act", {"pid": pid, "do": "end", "key": key}, Cookie=cookie)

    assert foreign.status == 404 and "there is no such process" in foreign.text
    assert server.ask("GET", f"/exec/{pid}/state").json["state"] == "idle"
    server.ask("DELETE", f"/exec/{pid}")


@pytest.mark.parametrize("path", ["/", "/processes", "/page.js", "/page.css", "/page.svg"])
def test_every_answer_carries_the_policy(server: ExecServer, path: str) -> None:
    answer = server.ask("GET", path, token="")

    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_form_that_is_too_large_is_refused(server: ExecServer) -> None:
    answer = submit(server, "/login", {"token": "x" * 9000})

    assert answer.status == 413


def test_the_files_of_the_page_are_in_the_package() -> None:
    from execgw.http import page

    assert {path.name for path in Path(page.STATIC).iterdir()} == {"page.css", "page.js", "page.svg"}

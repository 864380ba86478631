"""What clients of a real `execgw serve` cannot do: more than their share, other than the policy says, for ever."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from serve_command import Answer, ExecServer, execgw
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

pytestmark = pytest.mark.usefixtures("nothing_left")


def at_once(number: int, call) -> list[Answer]:
    """The answers to so many requests that are made at the same moment."""
    barrier = threading.Barrier(number)
    answers: list[Answer] = []

    def ask(which: int) -> None:
        barrier.wait()
        answers.append(call(which))

    threads = [threading.Thread(target=ask, args=(which,)) for which in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def statuses(answers: list[Answer]) -> dict[int, int]:
    """How often each status came."""
    found = [answer.status for answer in answers]
    return {status: found.count(status) for status in sorted(set(found))}


# -- places


def test_of_fifty_starts_at_the_same_time_exactly_eight_succeed(tmp_path: Path) -> None:
    policy = "[server]\nprocesses = 8\nper_token = 50\n[specs.python]\n"
    with ExecServer(tmp_path, policy=policy) as server:
        answers = at_once(50, lambda _: server.ask("POST", "/popen", {}))

        assert statuses(answers) == {201: 8, 503: 42}
        refused = next(answer for answer in answers if answer.status == 503)
        assert (refused.json["error"], refused.headers["retry-after"]) == ("full", "5")
        assert len(server.ask("GET", "/exec").json["processes"]) == 8


def test_a_start_that_fails_frees_its_place(tmp_path: Path) -> None:
    policy = (
        "[server]\nprocesses = 4\nper_token = 4\n[specs.python]\n"
        "[specs.missing]\npython = '/no/such/python'\n[specs.silent]\npython = ['sh', '-c', 'exit 3', '--']\n"
    )
    with ExecServer(tmp_path, policy=policy) as server:
        for name in ("missing", "silent"):
            answers = at_once(4, lambda _, name=name: server.ask("POST", "/popen", {"spec": name}))
            assert statuses(answers) == {502: 4}
            assert {answer.json["error"] for answer in answers} == {"start"}

        answers = at_once(10, lambda _: server.ask("POST", "/popen", {}))

    assert statuses(answers) == {201: 4, 429: 6}


def test_a_token_that_has_its_share_leaves_the_rest_to_others(tmp_path: Path) -> None:
    with ExecServer(tmp_path, policy="[server]\nper_token = 2\n[specs.python]\n") as server:
        joe = execgw("token", "--token-file", server.tokens, "new", "joe").stdout.strip()

        answers = at_once(6, lambda _: server.ask("POST", "/popen", {}))

        assert statuses(answers) == {201: 2, 429: 4}
        denied = next(answer for answer in answers if answer.status == 429)
        assert denied.json["error"] == "limit" and "DELETE /exec/PID" in denied.json["why"]
        his = server.popen(joe)
        assert server.ask("DELETE", f"/exec/{his}", token=joe).status == 200
        mine = next(answer for answer in answers if answer.status == 201).json["pid"]
        assert server.ask("DELETE", f"/exec/{mine}").status == 200
        assert server.ask("POST", "/popen", {}).status == 201  # a place is free as soon as the process has ended


# -- the policy


def test_no_request_starts_what_the_policy_does_not_name(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    touch = f"touch {canary}"
    bodies = [
        {"python": f"/bin/sh -c '{touch}'"},
        {"python": ["/bin/sh", "-c", touch]},
        {"spec": f"python//python=/bin/sh -c '{touch}'"},
        {"spec": f"popen//python=/bin/sh -c '{touch}'"},
        {"spec": f"ssh=-oProxyCommand={touch}"},
        {"spec": f"cmd={touch}"},
        {"spec": "popen//env:LD_PRELOAD=/tmp/evil.so"},
        {"env": {"LD_PRELOAD": "/tmp/evil.so"}},
        {"env": {"PYTHONSTARTUP": "/tmp/evil.py"}, "spec": "python"},
        {"chdir": f"/tmp//python={touch}"},
        {"nice": -20},
        {"spec": "python", "python": touch},
        {"spec": {"python": touch}},
        {"spec": ["python"]},
        {"spec": "raw"},
    ]
    with ExecServer(tmp_path / "server", policy="[specs.python]\n") as server:
        for body in bodies:
            answer = server.ask("POST", "/popen", body)
            assert answer.status in (400, 403), (body, answer.body)
            assert answer.json["error"] in ("policy", "request"), body
        for query in (f"spec=python//python={touch.replace(' ', '+')}", "spec=cmd%3Dtouch"):
            assert server.ask("POST", f"/exec?{query}", "1", headers={"Content-Type": "text/x-python"}).status == 403

        assert server.ask("GET", "/exec").json == {"processes": []}
        started = server.ask("POST", "/popen", {"spec": "python", "argv": [touch], "PYTHON": touch})
        assert started.status in (201, 400)

    assert not canary.exists()


def test_a_named_spec_has_its_surroundings_from_the_operator(tmp_path: Path) -> None:
    policy = (
        "[specs.here]\nnice = 3\nchdir = '{0}'\nenv = {{ WHO = 'the operator' }}\n"
        "python = ['env', 'ALSO=a b//c', 'python3', '-X', 'utf8']\n"
    )
    source = "import os, sys; channel.send([os.getcwd(), os.nice(0), os.environ['WHO'], sys.flags.utf8_mode])"
    folder = tmp_path / "work"

    with pytest.raises(AssertionError, match="separates the keys of a spec"):
        ExecServer(tmp_path / "first", policy=policy.format(folder))
    with ExecServer(tmp_path / "second", policy=policy.format(folder).replace("//", "-")) as server:
        pid = server.run(source)
        answer = server.ask("GET", f"/exec/{pid}?wait=30")

    assert answer.json == [str(folder), 3, "the operator", 1]


# -- limits of processes


def test_a_process_gets_no_more_memory_and_processor_than_the_policy_says(tmp_path: Path) -> None:
    policy = "[limits]\nmemory = '300 MiB'\n[specs.python]\n[specs.short]\nlimits = { cpu = 1 }\n"
    with ExecServer(tmp_path, policy=policy) as server:
        greedy = server.run("bytearray(400 << 20)")
        raised = server.ask("GET", f"/exec/{greedy}?wait=30")
        hungry = server.popen(spec="short")
        server.ask("POST", f"/exec/{hungry}", "while True: pass", headers={"Content-Type": "text/x-python"})
        ended = server.ask("GET", f"/exec/{hungry}?wait=60")

    assert (raised.status, raised.json["type"]) == (422, "MemoryError")
    assert (ended.status, ended.json["signal"]) == (410, "SIGXCPU")


def test_what_nobody_needs_is_ended_and_what_is_busy_or_followed_is_not(tmp_path: Path) -> None:
    with ExecServer(tmp_path, policy="[limits]\nidle = 4\n[specs.python]\n") as server:
        busy = server.run("channel.receive()")
        followed = server.popen()
        follower = threading.Thread(target=server.ask, args=("GET", f"/exec/{followed}?wait=30"))
        follower.start()
        idle = server.popen()

        ended = server.ask("GET", f"/exec/{idle}/state")
        while ended.json["state"] != "ended":
            ended = server.ask("GET", f"/exec/{idle}/state")  # to look at it is not to use it

        assert "nothing ran in it, and nobody asked for it, for 4 s" in ended.json["why"]
        assert server.ask("GET", f"/exec/{busy}/state").json["state"] == "busy"
        assert server.ask("GET", f"/exec/{followed}/state").json["followers"] == 1
        server.ask("DELETE", f"/exec/{followed}")
        follower.join()


def test_a_process_ends_after_the_time_that_it_may_run(tmp_path: Path) -> None:
    with ExecServer(tmp_path, policy="[limits]\nwall = 1\n[specs.python]\n") as server:
        pid = server.run("channel.receive()")

        ended = server.ask("GET", f"/exec/{pid}?wait=30")

    assert (ended.status, "it may run for 1 s" in ended.json["why"]) == (410, True)


# -- browsers of others


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("http://{address}", True),
        ("https://dash.example.org", True),
        ("https://evil.example.org", False),
        ("http://{address}.evil.example.org", False),
        ("null", False),
    ],
)
def test_a_websocket_is_opened_by_pages_of_our_own_alone(tmp_path: Path, origin: str | None, allowed: bool) -> None:
    policy = "origins = ['https://dash.example.org']\n[specs.python]\n"
    with ExecServer(tmp_path, policy=policy) as server:
        pid = server.run("channel.send(1); channel.receive()")
        ticket = server.ask("POST", "/ticket", {"pid": pid}).json["ticket"]
        url = f"ws://{server.address}/exec/{pid}?after=0&ticket={ticket}"
        said = None if origin is None else origin.format(address=server.address)

        try:
            with connect(url, origin=said, proxy=None) as socket:  # type: ignore[arg-type]
                assert '"value":1' in str(socket.recv(30)).replace(" ", "")
            connected = True
        except InvalidStatus as e:
            assert e.response.status_code == 403
            connected = False

    assert connected == allowed

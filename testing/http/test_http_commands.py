"""execgw token, ps, kill and logs, as users run them, against a real server."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_command import EXECGW, ExecServer, environment, execgw

import execgw as near


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[ExecServer]:
    with ExecServer(tmp_path_factory.mktemp("commands"), policy="[server]\nper_token = 64\n[specs.python]\n") as server:
        yield server


@pytest.fixture(autouse=True)
def _no_process_is_left_to_the_next_test(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        execgw("kill", request.getfixturevalue("server").client, "--all")


def good(*words: str | Path, **env: str) -> str:
    """What a command prints that ends well."""
    done = execgw(*words, **env)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def bad(*words: str | Path, **env: str) -> str:
    """What a command says that does not."""
    done = execgw(*words, **env)
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    return done.stderr


def printed(server: ExecServer, pid: str, text: bytes) -> None:
    """Wait until a process has printed that."""
    after = 0
    data = b""
    while text not in data:
        answer = server.ask("GET", f"/exec/{pid}/output?after={after}&wait=30")
        data, after = data + answer.body, int(answer.headers["execgw-offset"])


# -- token


def test_a_new_token_goes_to_stdout_or_to_a_file_for_its_owner_alone(tmp_path: Path) -> None:
    file = ("--token-file", tmp_path / "tokens")

    shown = good("token", *file, "new", "shown")
    done = execgw("token", *file, "new", "kept", "--to", tmp_path / "kept")

    assert re.fullmatch(r"execgw_[\w-]{43}\n", shown)
    assert (done.stdout, done.stderr) == ("", f"clients: token=file:{tmp_path / 'kept'}\n")
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "kept").read_text() != shown


def test_a_list_tells_all_but_the_tokens_themselves(tmp_path: Path) -> None:
    file = ("--token-file", tmp_path / "tokens")
    assert good("token", *file, "list") == f"no tokens in {tmp_path / 'tokens'}\n"
    tokens = [good("token", *file, "new", "joe", "--scopes", "popen,exec").strip()]
    tokens.append(good("token", *file, "new", "brief", "--expires", "30d").strip())
    tokens.append(good("token", *file, "new", "gone").strip())
    good("token", *file, "revoke", "gone")

    table, told = good("token", *file, "list"), json.loads(good("token", *file, "list", "--json"))

    assert [line.split()[:2] for line in table.splitlines()[1:]] == [
        ["joe", "good"],
        ["brief", "good"],
        ["gone", "revoked"],
    ]
    assert table.splitlines()[1].endswith("never             popen,exec")
    assert told[0]["scopes"] == ["popen", "exec"] and told[1]["expires"] is not None
    assert not any(token in table + json.dumps(told) for token in tokens)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["new", "joe"], "there is, or was, a token 'joe'"),
        (["new", "a b"], "no name for a token"),
        (["new", "ann", "--scopes", "root"], "one or more of popen, exec, admin"),
        (["new", "ann", "--scopes", ""], "one or more of popen, exec, admin"),
        (["new", "ann", "--expires", "soon"], "--expires: 'soon' is not a number of seconds"),
        (["new", "ann", "--to", "tokens"], "there is such a file already"),
        (["revoke", "nobody"], "it has joe"),
    ],
)
def test_what_cannot_be_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], why: str) -> None:
    monkeypatch.chdir(tmp_path)
    good("token", "--token-file", "tokens", "new", "joe")

    assert why in bad("token", "--token-file", "tokens", *words)


# -- ps


def test_ps_shows_what_runs(server: ExecServer) -> None:
    busy, idle = server.run("channel.send('x' * 3000); channel.receive()"), server.popen()
    gone = server.popen()
    server.ask("DELETE", f"/exec/{gone}")

    table, every = good("ps", server.client), good("ps", server.client, "--all")
    told = json.loads(good("ps", server.client, "--json"))

    rows = {line.split()[0]: line for line in table.splitlines()[1:]}
    assert set(rows) == {busy[:8], idle[:8]}
    assert re.search(r"busy +python +owner +\d+ s +- +1 \(3 KiB\) +\d+ MiB +0$", rows[busy[:8]])
    assert re.search(r"idle +python +owner +\d+ s +\d+ s +0 B", rows[idle[:8]])
    assert f"{gone[:8]}  ended" in every
    assert [one["pid"] for one in told] == [busy, idle]


def test_ps_shows_gateways_as_well(server: ExecServer) -> None:
    with near.Group() as group:
        gateway = group.makegateway(server.client)
        assert gateway.remote_exec("channel.send(1)").receive() == 1

        told = json.loads(good("ps", server.client, "--json"))

    assert [(one["protocol"], one["owner"]) for one in told] == [("frames", "owner")]


def test_the_token_may_be_in_the_environment(server: ExecServer) -> None:
    assert good("ps", f"http={server.address}", EXECGW_HTTP_TOKEN=server.token) == "no processes\n"
    assert good("ps", server.address, EXECGW_HTTP_TOKEN=server.token) == "no processes\n"


def test_a_server_that_does_not_answer_as_it_should_is_told_with_what_to_do(server: ExecServer, tmp_path: Path) -> None:
    (tmp_path / "wrong").touch(mode=0o600)
    (tmp_path / "wrong").write_text("execgw_wrong-0123456789abcdef")

    assert "it wants a token: token=file:PATH or token=env:NAME" in bad("ps", f"http={server.address}")
    wrong = bad("ps", f"http={server.address}//token=file:{tmp_path / 'wrong'}")
    assert "does not take the token of file:" in wrong and "execgw token list" in wrong
    assert "execgw_wrong" not in wrong
    assert "execgw serve --listen 127.0.0.1:1" in bad("ps", "http=127.0.0.1:1")
    assert "'python' says nothing about a server" in bad("ps", f"http={server.address}//python=python3")
    assert "takes no token as text" in bad("ps", f"http={server.address}//token=execgw_wrong")


# -- kill


def test_kill_ends_those_that_are_named_by_their_beginning(server: ExecServer) -> None:
    first, second, third = server.popen(), server.popen(), server.run("channel.receive()")

    said = good("kill", server.client, first[:8], third)

    assert [line.partition(":")[0] for line in said.splitlines()] == [first[:8], third[:8]]
    states = {one["pid"]: one["state"] for one in server.ask("GET", "/exec").json["processes"]}
    assert (states[first], states[second], states[third]) == ("ended", "idle", "ended")


def test_kill_all_ends_all(server: ExecServer) -> None:
    for _ in range(2):
        server.popen()

    assert len(good("kill", server.client, "--all").splitlines()) == 2
    assert good("ps", server.client) == "no processes\n"
    assert good("kill", server.client, "--all") == ""


def test_kill_can_interrupt_what_runs_and_end_nothing(server: ExecServer) -> None:
    pid = server.run(
        "try:\n channel.receive()\nexcept KeyboardInterrupt: channel.send('interrupted')\nchannel.receive()"
    )

    said = good("kill", server.client, pid[:8], "--interrupt")

    assert re.fullmatch(rf"{pid[:8]}: channel \d+: interrupted\n", said)
    assert server.ask("GET", f"/exec/{pid}?wait=30").json == "interrupted"
    assert server.ask("GET", f"/exec/{pid}/state").json["state"] == "busy"


def test_kill_ends_nothing_if_one_of_the_names_is_wrong(server: ExecServer) -> None:
    pid = server.popen()

    assert "there is no process 'ffff0000' of yours" in bad("kill", server.client, pid[:8], "ffff0000")
    assert "give more of it" in bad("kill", server.client, pid[:2])
    assert execgw("kill", server.client).returncode == 2
    assert execgw("kill", server.client, pid, "--all").returncode == 2

    assert server.ask("GET", f"/exec/{pid}/state").json["state"] == "idle"


# -- logs


def test_logs_shows_what_was_printed_and_does_no_harm_to_a_terminal(server: ExecServer) -> None:
    pid = server.run("import sys; print('one'); print('\\x1b[31mred\\x1b[0m \\x1b]0;title\\x07'); sys.stdout.flush()")
    printed(server, pid, b"title")

    assert good("logs", server.client, pid[:8]) == "one\n\x1b[31mred\x1b[0m \\x1b]0;title\\x07\n"
    assert good("logs", server.client, pid[:8], "--raw") == "one\n\x1b[31mred\x1b[0m \x1b]0;title\x07\n"


def test_logs_follows_until_the_process_has_ended(server: ExecServer) -> None:
    pid = server.run("while True: print(channel.receive(), flush=True)")
    argv = [*EXECGW, "logs", server.client, pid, "--follow"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment()) as following:
        assert following.stdout is not None
        for word in ("first", "second"):
            server.ask("POST", f"/exec/{pid}", word, headers={"Content-Type": "text/plain"})
            assert following.stdout.readline() == f"{word}\n"
        server.ask("DELETE", f"/exec/{pid}")

        assert following.wait(30) == 0


def test_ctrl_c_ends_the_following_alone(server: ExecServer) -> None:
    pid = server.run("print('here', flush=True); channel.receive()")
    argv = [*EXECGW, "logs", server.client, pid, "--follow"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment()) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "here\n"

        following.send_signal(signal.SIGINT)

        assert following.wait(30) == 130
    assert server.ask("GET", f"/exec/{pid}/state").json["state"] == "busy"


def test_what_the_last_words_of_a_process_were_is_still_there(server: ExecServer) -> None:
    pid = server.run("import os; os.write(2, b'the last words\\n'); os._exit(3)")
    assert server.ask("GET", f"/exec/{pid}?wait=30").json["exit_code"] == 3

    assert good("logs", server.client, pid[:8]) == "the last words\n"


@pytest.mark.parametrize("command", ["serve", "token", "ps", "kill", "logs"])
def test_help_has_examples(command: str) -> None:
    assert re.search(rf"examples:\n  execgw {command}", good(command, "--help"))

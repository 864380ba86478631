"""execgw serve, a real process: its start, its tokens, its refusals."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import stat
import subprocess
from pathlib import Path

import pytest
from listener import Certificates
from serve_command import EXECGW, ExecServer, environment, execgw

from execgw.errors import SpecError
from execgw.http.serving import Listening
from execgw.transports.address import parse_address

pytestmark = pytest.mark.usefixtures("nothing_left")


def refused(*words: str | Path, **env: str) -> str:
    """What `execgw serve` says when it does not start."""
    done = execgw("serve", *words, **env)
    assert (done.returncode, done.stdout) == (1, ""), done
    return done.stderr


# -- the first start


def test_the_first_start_makes_a_token_that_only_the_owner_may_read(tmp_path: Path) -> None:
    with ExecServer(tmp_path) as server:
        owner = tmp_path / "tokens.owner"

        assert f"made a first token, in {owner}" in server.said
        assert stat.S_IMODE(owner.stat().st_mode) == 0o600
        assert server.client == f"http={server.address}//token=file:{owner}"
        assert server.token not in server.said
        assert server.ask("GET", "/exec").status == 200


def test_the_line_that_it_shows_to_clients_works_as_it_is(tmp_path: Path) -> None:
    with ExecServer(tmp_path) as server:
        server.popen()

        done = execgw("ps", server.client)

    assert done.returncode == 0
    assert re.search(r"^\w{8}  idle +python  owner", done.stdout, re.MULTILINE)


def test_a_second_start_takes_the_same_tokens(tmp_path: Path) -> None:
    with ExecServer(tmp_path) as first:
        token = first.token
    with ExecServer(tmp_path) as second:
        assert "made a first token" not in second.said
        assert second.ask("GET", "/exec", token=token).status == 200


def test_it_makes_its_default_file_in_the_configuration_of_the_user(tmp_path: Path) -> None:
    env = environment(XDG_CONFIG_HOME=str(tmp_path))
    argv = ["serve", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*EXECGW, *argv], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.stdout.readline()
        process.terminate()

    assert first.rstrip() == f"execgw serve: made a first token, in {tmp_path}/execgw/http-tokens.owner"


def test_it_listens_on_this_host_alone_if_nothing_is_said(tmp_path: Path) -> None:
    said = execgw("serve", "--help").stdout

    assert "127.0.0.1:8642 if not given" in said


# -- refusals


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "10.1.2.3:80", "example.org:80"])
def test_beyond_this_host_it_wants_tls_or_a_proxy(tmp_path: Path, address: str) -> None:
    said = refused("--listen", address, "--token-file", tmp_path / "tokens")

    assert "tokens and data would be readable by others; give --certfile and --keyfile, or --behind-proxy" in said
    assert not (tmp_path / "tokens").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.9.9.9:0", "[::1]:0", "localhost:0"])
def test_on_this_host_it_wants_neither(address: str) -> None:
    Listening(parse_address(address, any_port=True)).check()


def test_behind_a_proxy_any_address_is_taken() -> None:
    Listening(parse_address("0.0.0.0:0", any_port=True), proxies="10.0.0.1").check()


def test_a_unix_socket_is_not_for_http() -> None:
    with pytest.raises(SpecError, match="HOST:PORT"):
        Listening(parse_address("unix:/tmp/x")).check()


def test_a_port_that_is_taken_is_told_with_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        said = refused("--listen", address, "--token-file", tmp_path / "tokens")

    assert f"cannot listen on {address}: Address already in use; something listens there already" in said


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--certfile", "cert.pem"], "--certfile and --keyfile belong together"),
        (["--certfile", "none.pem", "--keyfile", "none.pem"], "No such file"),
        (["--certfile", "text", "--keyfile", "text"], "no PEM pair"),
        (["--policy", "none.toml"], "none.toml: No such file"),
        (["--policy", "text"], "this is no TOML"),
        (["--listen", "nonsense"], "'nonsense' is no address"),
        (["--listen", "no.such.host.invalid:1", "--behind-proxy"], "there is no such address on this host"),
        (["--listen", "10.255.255.254:1", "--behind-proxy"], "this host has no such address"),
    ],
)
def test_what_it_cannot_use_is_named(
    tmp_path: Path, words: list[str], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("this is neither [ nor\n")

    assert why in refused(*words, "--token-file", tmp_path / "tokens")


def test_tokens_that_others_may_read_are_no_secrets(tmp_path: Path) -> None:
    execgw("token", "--token-file", tmp_path / "tokens", "new", "joe")
    os.chmod(tmp_path / "tokens", 0o644)

    said = refused("--listen", "127.0.0.1:0", "--token-file", tmp_path / "tokens")

    assert f"chmod 600 {tmp_path / 'tokens'}" in said


@pytest.mark.parametrize("token", ["short", "", "x" * 20 + "\n", "ü" * 20])
def test_what_is_no_token_in_the_environment_is_refused(tmp_path: Path, token: str) -> None:
    said = refused("--listen", "127.0.0.1:0", "--token-file", tmp_path / "tokens", EXECGW_HTTP_TOKEN=token)

    assert "$EXECGW_HTTP_TOKEN is no token" in said


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys, importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'uvicorn' else find(name, *more)\n"
        "from execgw.cli import main; sys.exit(main(['serve']))"
    )

    done = subprocess.run([EXECGW[0], "-c", program], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr.count("pip install 'execgw[http]'")) == (1, 1)


# -- tokens


def test_a_token_of_the_environment_is_taken_and_no_process_inherits_it(tmp_path: Path) -> None:
    token = "0123456789abcdef-of-the-environment"
    with ExecServer(tmp_path, EXECGW_HTTP_TOKEN=token) as server:
        assert server.client.endswith("//token=env:EXECGW_HTTP_TOKEN")
        assert not server.tokens.exists()
        pid = server.run("import os; channel.send(sorted(os.environ))")

        names = server.ask("GET", f"/exec/{pid}?wait=30").json

    assert "PATH" in names
    assert "EXECGW_HTTP_TOKEN" not in names


def test_a_revoked_token_is_refused_at_once_and_its_processes_end(tmp_path: Path) -> None:
    with ExecServer(tmp_path) as server:
        joe = execgw("token", "--token-file", server.tokens, "new", "joe").stdout.strip()
        mine = server.popen()
        his = server.run("channel.receive()", joe)
        number = server.ask("GET", "/exec").json["processes"][1]

        execgw("token", "--token-file", server.tokens, "revoke", "joe")

        answer = server.ask("GET", f"/exec/{his}", token=joe)
        assert (answer.status, answer.json["error"]) == (401, "token")
        assert "it was revoked" in answer.json["why"]
        assert answer.headers["www-authenticate"].startswith("Bearer")
        ended = server.ask("GET", f"/exec/{his}?wait=30", timeout=60)
        assert (ended.status, "revoked" in ended.json["why"]) == (410, True)
        assert number["pid"] == his
        assert server.ask("GET", f"/exec/{mine}/state").json["state"] == "idle"


def test_an_expired_token_is_refused_and_its_processes_end(tmp_path: Path) -> None:
    with ExecServer(tmp_path) as server:
        joe = execgw("token", "--token-file", server.tokens, "new", "joe", "--expires", "1d").stdout.strip()
        his = server.popen(joe)
        kept = json.loads(server.tokens.read_text())
        kept["tokens"][1]["expires"] -= 86400  # the day is over

        server.tokens.write_text(json.dumps(kept))

        ended = server.ask("GET", f"/exec/{his}?wait=30")
        assert (ended.status, "has expired" in ended.json["why"]) == (410, True)
        assert server.ask("GET", f"/exec/{his}", token=joe).status == 401


def test_the_process_of_another_is_like_one_that_there_is_not(tmp_path: Path) -> None:
    with ExecServer(tmp_path) as server:
        joe, ann = (
            execgw("token", "--token-file", server.tokens, "new", name, "--scopes", "popen,exec").stdout.strip()
            for name in ("joe", "ann")
        )
        pid = server.run("channel.send(1); channel.receive()", joe)
        routes = [
            ("GET", f"/exec/{pid}"),
            ("GET", f"/exec/{pid}?after=0"),
            ("POST", f"/exec/{pid}"),
            ("GET", f"/exec/{pid}/stream"),
            ("GET", f"/exec/{pid}/state"),
            ("GET", f"/exec/{pid}/output"),
            ("POST", f"/exec/{pid}/interrupt"),
            ("DELETE", f"/exec/{pid}"),
        ]

        for method, path in routes:
            foreign = server.ask(method, path, token=ann)
            missing = server.ask(method, path.replace(pid, "0" * 32), token=ann)

            assert (foreign.status, foreign.body) == (404, missing.body), path
        assert server.ask("POST", "/ticket", {"pid": pid}, ann).status == 404
        assert server.ask("GET", "/exec", token=ann).json == {"processes": []}
        assert server.ask("GET", f"/exec/{pid}?wait=30", token=joe).json == 1
        assert [one["pid"] for one in server.ask("GET", "/exec").json["processes"]] == [pid]  # an admin sees all


def test_a_token_does_what_its_scopes_say(tmp_path: Path) -> None:
    with ExecServer(tmp_path) as server:
        reader = execgw("token", "--token-file", server.tokens, "new", "reader", "--scopes", "exec").stdout.strip()

        denied = server.ask("POST", "/popen", {}, reader)
        figures = server.ask("GET", "/metrics", token=reader)

        assert (denied.status, denied.json["error"]) == (403, "scope")
        assert "needs the scope 'popen', and has exec" in denied.json["why"]
        assert figures.status == 403
        assert server.ask("GET", "/metrics").status == 200


def test_a_token_is_in_no_log_no_argument_list_no_url_and_no_environment(tmp_path: Path) -> None:
    given = "0123456789abcdef-of-the-environment"
    with ExecServer(tmp_path) as first:
        owner = first.token
        first.ask("GET", f"/exec/{owner}")  # where no token belongs
        first.ask("GET", f"/exec?token={owner}")
        first.ask("GET", f"/{owner}")
        first.ask("GET", "/exec", token="wrong-" + owner)
    with ExecServer(tmp_path, EXECGW_HTTP_TOKEN=given) as server:
        execgw("ps", server.client, EXECGW_HTTP_TOKEN=given)
        pid = server.run("import os; channel.send((os.getpid(), os.getppid())); 1 / 0", owner)
        worker, near = server.ask("GET", f"/exec/{pid}?wait=30", token=owner).json
        assert near == server.process.pid
        seen = [Path(f"/proc/{one}/cmdline").read_bytes() for one in (worker, near)]
        seen.append(Path(f"/proc/{worker}/environ").read_bytes())
        seen += [server.said.encode(), first.said.encode(), server.tokens.read_bytes()]
        seen.append(server.ask("GET", "/exec", token=owner).body)
        seen.append(server.ask("GET", "/metrics", token=owner).body)
        ticket = server.ask("POST", "/ticket", {"pid": pid}, owner).json["ticket"]
        server.ask("GET", f"/exec/{pid}?ticket={ticket}", token="")
    seen.append(server.log.read_bytes())

    for secret in (owner, owner.removeprefix("execgw_"), given, ticket, pid):
        found = [data for data in seen if secret.encode() in data and not (secret == pid and data.startswith(b"{"))]
        assert found == [], secret
    events = server.events()
    assert {"POST /popen 201", "POST /exec/{pid} 202"} <= {event["event"] for event in events}
    assert [event["pid"] for event in events if event["event"] == "process started"] == [pid[:8]]
    assert {event.get("caller") for event in events if event["event"] == "POST /popen 201"} == {"owner"}


# -- TLS


def test_with_a_certificate_it_speaks_tls_and_says_how_to_check_it(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "pem")
    words = ("--certfile", certificates.cert, "--keyfile", certificates.key)
    with ExecServer(tmp_path / "server", *words) as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert f"http={server.url}//" in server.client
        assert re.search(r"//tls=sha256:[0-9a-f]{64}$", server.client)

        pinned = execgw("ps", server.client)
        signed = execgw("ps", re.sub("tls=.*", f"tls=ca:{certificates.ca}", server.client))
        other = execgw(
            "ps", re.sub("sha256:.", "sha256:" + ("0" if "sha256:1" in server.client else "1"), server.client)
        )
        with server.connect() as plain:
            plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            said = plain.recv(100)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(certificates.ca)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with context.wrap_socket(server.connect(), server_hostname="127.0.0.1") as sealed:
            assert sealed.version() == "TLSv1.2"

    assert (pinned.stdout, signed.stdout) == ("no processes\n", "no processes\n")
    assert other.returncode == 1 and "its certificate is not the one of tls=" in other.stderr
    assert not said.startswith(b"HTTP/1.1 200")


# -- behind a proxy


@pytest.mark.parametrize(("words", "client"), [((), "127.0.0.1"), (("--behind-proxy",), "198.51.100.7")])
def test_only_a_proxy_that_was_named_is_believed_about_its_clients(
    tmp_path: Path, words: tuple[str, ...], client: str
) -> None:
    with ExecServer(tmp_path, *words) as server:
        server.ask("GET", "/healthz", headers={"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https"})

    assert [event["client"] for event in server.events() if event["event"] == "GET /healthz 200"] == [client]


def test_its_log_is_json_line_by_line(tmp_path: Path) -> None:
    with ExecServer(tmp_path) as server:
        server.ask("GET", "/%0a%22here", token="")
        with server.connect() as sock:
            sock.sendall(b"no HTTP at all\r\n\r\n")
            sock.recv(1000)

    events = server.events()

    assert all({"time", "level", "event"} <= set(event) for event in events)
    assert [json.dumps(event) for event in events if "here" in json.dumps(event)] == []
    assert events[-1]["event"] == "ended"

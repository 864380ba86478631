"""What may go wrong between a gateway and its exec-server: each is an error of its own, and says what to do next."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys

import pytest
from listener import Certificates, write_token
from listener import serving as answering_each
from proxy import Proxy

from execgw import (
    AuthenticationFailed,
    ConnectionLost,
    HandshakeError,
    HostKeyRefused,
    HostNotFound,
    HostNotReached,
    StartError,
)
from execgw.peer.compat import clock

WAYS = pytest.mark.parametrize("way", ["yes", "no"])
FRAMES = "application/x-execgw-frames"


def answering(status: str, body: object = "", **headers: str):
    """A server that gives every request this answer; yields its address."""
    text = body if isinstance(body, str) else json.dumps(body)
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(text)}", *(f"{n}: {v}" for n, v in headers.items())]
    answer = "\r\n".join([*lines, "", text]).encode()

    def serve(client: socket.socket) -> None:
        while client.recv(65536):
            client.sendall(answer)

    return answering_each(serve)


def failed(group, spec: str, kind: type[StartError] = StartError) -> str:
    with pytest.raises(StartError) as caught:
        group.makegateway(spec)
    assert type(caught.value) is kind, caught.value
    return str(caught.value)


# -- serving


def test_a_wrong_token_is_told_with_where_it_came_from(group, exec_server, tmp_path):
    wrong = write_token(tmp_path)

    said = failed(group, f"http={exec_server.address}//token=file:{wrong}", AuthenticationFailed)

    assert f"file:{wrong}" in said and "execgw token list" in said
    assert wrong.read_text().strip() not in said


def test_no_token_is_told_with_how_to_give_one(group, exec_server):
    assert "token=file:PATH" in failed(group, f"http={exec_server.address}", AuthenticationFailed)


def test_no_server_is_told_with_how_to_start_one(group):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    said = failed(group, f"http=127.0.0.1:{port}", HostNotReached)

    assert f"execgw serve --listen 127.0.0.1:{port}" in said


def test_no_such_host_is_told(group):
    assert "getent hosts" in failed(group, "http=no-such-host.invalid:80", HostNotFound)


def test_a_host_that_is_silent_is_given_up_in_time(group):
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        begun = clock()

        said = failed(group, f"http=127.0.0.1:{server.getsockname()[1]}//start_timeout=1", HostNotReached)

        assert "no answer in time" in said
        assert clock() - begun < 5


def test_what_is_no_http_server_is_told(group):
    with answering_each(lambda client: client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")) as address:
        assert "does not answer as an HTTP server" in failed(group, f"http={address}", HandshakeError)


def test_another_web_server_is_told(group):
    with answering("404 Not Found", "<html>nothing here</html>") as address:
        said = failed(group, f"http=http://{address}/prefix", HandshakeError)

    assert "no exec-server answers there (status 404)" in said and "prefix" in said


@pytest.mark.parametrize("status", ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"])
def test_a_proxy_without_a_server_behind_it_is_told(group, status):
    with answering(status, "<html></html>") as address:
        assert "a proxy answers" in failed(group, f"http={address}", HostNotReached)


def test_a_server_that_knows_no_frames_is_too_old(group):
    with answering("201 Created", {"pid": "0123abcd"}) as address:
        assert "it is too old" in failed(group, f"http={address}", HandshakeError)


@pytest.mark.parametrize("answer", ["no json", "[]", {"pid": 7}, {"pid": "../../x"}, {"protocol": "frames"}])
def test_an_answer_that_names_no_process_is_told(group, answer):
    with answering("201 Created", answer) as address:
        assert "names no process" in failed(group, f"http={address}", HandshakeError)


def test_another_version_is_told_with_both(group):
    refusal = {"error": "version", "why": "no", "server": "0.0.1"}
    with answering("409 Conflict", refusal) as address:
        said = failed(group, f"http={address}", HandshakeError)

    assert "it has execgw 0.0.1" in said and "install the same" in said


def test_a_server_that_is_full_is_told_with_when_to_come_again(group):
    refusal = {"error": "full", "why": "8 processes run"}
    with answering("503 Service Unavailable", refusal, **{"Retry-After": "7"}) as address:
        assert "8 processes run; try again in 7 s" in failed(group, f"http={address}")


def test_what_the_policy_does_not_allow_is_told(group, exec_server):
    said = failed(group, exec_server.spec("spec=no-such-name"))

    assert "no-such-name" in said and "403" in said


def test_control_characters_of_a_server_are_shown_and_not_obeyed(group):
    refusal = {"error": "policy\x1b[2J", "why": "no\x1b]0;title\x07 never"}
    with answering("403 Forbidden", refusal) as address:
        said = failed(group, f"http={address}")

    assert "\x1b" not in said and "never" in said


# -- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secure(exec_server, certificates):
    """The address of the server behind a proxy that speaks TLS, and the SHA-256 of its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.cert, certificates.key)
    der = ssl.PEM_cert_to_DER_cert(certificates.cert.read_text().split("-----END")[0] + "-----END CERTIFICATE-----\n")
    with Proxy(exec_server.address, context=context) as proxy:
        yield proxy.address, hashlib.sha256(der).hexdigest()


@WAYS
@pytest.mark.parametrize("trust", ["ca", "sha256"])
def test_a_gateway_over_tls_with_both_ways_of_trust(group, exec_server, secure, certificates, trust, way):
    address, digest = secure
    tls = f"tls=ca:{certificates.ca}" if trust == "ca" else f"tls=sha256:{digest}"
    spec = exec_server.spec(tls, f"websocket={way}").replace(f"http={exec_server.address}", f"http=https://{address}")

    gw = group.makegateway(spec)

    with gw.remote_exec("for item in channel: channel.send(item)") as channel:
        for size in (1, 70_000, 3_000_000):
            channel.send(b"x" * size)
            assert channel.receive(30) == b"x" * size
    group.terminate(timeout=5)


def test_a_certificate_that_nobody_vouches_for_is_refused(group, exec_server, secure):
    said = failed(group, f"http=https://{secure[0]}", HostKeyRefused)

    assert "tls=ca:FILE" in said


def test_another_certificate_than_the_one_that_is_named_is_refused_before_the_token_is_sent(group, secure, tmp_path):
    token = write_token(tmp_path)
    said = failed(group, f"http=https://{secure[0]}//token=file:{token}//tls=sha256:{'0' * 64}", HostKeyRefused)

    assert secure[1] in said  # and no AuthenticationFailed, which would be the server's answer


def test_tls_with_a_server_that_has_none_is_told(group, exec_server):
    said = failed(group, f"http=https://{exec_server.address}", HandshakeError)

    assert f"without TLS: http={exec_server.address}" in said


def test_no_tls_with_a_server_that_has_it_is_told(group, secure):
    assert "https://" in failed(group, f"http={secure[0]}", HandshakeError)


# -- later


def lost(channel) -> ConnectionLost:
    with pytest.raises(ConnectionLost) as caught:
        channel.receive(20)
    return caught.value


def waiting(gw):
    channel = gw.remote_exec("channel.send(1); channel.receive()")
    channel.receive(20)
    return channel


def the_process(client):
    return client.get("/exec").json()["processes"][-1]["pid"]


@WAYS
def test_a_killed_worker_is_told_within_a_second_with_its_signal(group, exec_server, way):
    gw = group.makegateway(exec_server.spec(f"websocket={way}"))
    channel = waiting(gw)
    begun = clock()
    os.kill(gw.call(os.getpid), signal.SIGKILL)

    error = lost(channel)

    assert clock() - begun < 1
    assert (error.exit_code, error.signal) == (-9, "SIGKILL")


@WAYS
def test_the_last_words_of_a_worker_come_with_its_end(group, exec_server, way):
    gw = group.makegateway(exec_server.spec(f"websocket={way}"))
    channel = gw.remote_exec("import os, sys; sys.stderr.write('out of luck\\n'); sys.stderr.flush(); os._exit(3)")

    error = lost(channel)

    assert error.exit_code == 3
    assert "out of luck" in str(error)


@WAYS
def test_a_killed_server_is_told_within_a_second_and_leaves_no_worker(group, serving, processes, eventually, way):
    server = serving()
    gw = group.makegateway(server.spec(f"websocket={way}"))
    channel = waiting(gw)
    begun = clock()
    server.process.kill()

    error = lost(channel)

    assert clock() - begun < 1
    assert "the server has gone" in str(error)
    eventually(lambda: not [line for line in processes() if "zombie" not in line])


@WAYS
def test_a_killed_client_leaves_no_process_on_the_server(exec_server, eventually, way):
    program = (
        "import execgw, sys\n"
        "gw = execgw.makegateway(sys.argv[1])\n"
        "channel = gw.remote_exec('channel.send(1); channel.receive()')\n"
        "print(channel.receive(), flush=True)\n"
        "channel.receive()\n"
    )
    argv = [sys.executable, "-c", program, exec_server.spec(f"websocket={way}", "resume=0.5")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as client, exec_server.client() as joe:
        assert client.stdout is not None and client.stdout.readline() == "1\n"
        pid = the_process(joe)
        client.kill()
        client.wait()

        eventually(lambda: joe.get(f"/exec/{pid}/state").json().get("state", "ended") == "ended")


@WAYS
def test_a_process_that_is_ended_at_the_server_is_told_as_such(group, exec_server, way):
    gw = group.makegateway(exec_server.spec(f"websocket={way}"))
    channel = waiting(gw)

    with exec_server.client() as client:
        client.delete(f"/exec/{the_process(client)}")

    assert "'joe' asked for it" in str(lost(channel))


@WAYS
def test_another_connection_to_the_process_takes_over_and_the_first_is_told(group, exec_server, way):
    gw = group.makegateway(exec_server.spec(f"websocket={way}"))
    channel = waiting(gw)

    with exec_server.client() as client:
        client.get(f"/exec/{the_process(client)}?after=0")

    assert "another connection follows this process now" in str(lost(channel))


def test_a_frame_that_breaks_the_rules_ends_the_process_and_says_so(group, exec_server):
    gw = group.makegateway(exec_server.spec())
    channel = waiting(gw)

    gw._session.mux.seq += 5
    with contextlib.suppress(OSError):
        channel.send(1)

    assert "rules of the protocol" in str(lost(channel))


def test_a_server_that_ends_in_order_tells_its_clients(group, serving):
    server = serving()
    gw = group.makegateway(server.spec())
    channel = waiting(gw)

    server.process.terminate()

    assert "server" in str(lost(channel))

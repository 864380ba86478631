"""What strangers may send to a listener, and what a false listener may answer: nothing starts, nobody else suffers."""

from __future__ import annotations

import os
import socket
import struct
import traceback
from contextlib import suppress
from pathlib import Path

import pytest
from listener import Listener, connect, exactly, kept, read_all, start, write_token

from execgw._loop import run
from execgw.errors import AuthenticationFailed, StartError
from execgw.transports import guard
from execgw.transports.address import parse_address
from execgw.transports.install import listen_task
from execgw.worker.tasks import listen, listen_client

MAGIC = guard.MAGIC


def secret(listener: Listener) -> bytes:
    return listener.token.read_bytes().strip()


def prove(listener: Listener, sock: socket.socket) -> None:
    """The handshake of a client that knows the token, without TLS."""
    ours = os.urandom(32)
    sock.sendall(MAGIC + ours)
    theirs = exactly(sock, len(MAGIC) + 32)[len(MAGIC) :]
    sock.sendall(listen_client.proof(secret(listener), b"client", ours, theirs, bytes(32)))
    assert exactly(sock, 9 + 32)[:1] == b"P"


def test_both_halves_make_the_same_proof():
    assert (guard.MAGIC, guard.NONCE, guard.PROOF) == (listen_client.MAGIC, listen_client.NONCE, listen_client.PROOF)

    near = guard.Guard("it", guard.Token(b"t" * 32, "here"), None, None, {})

    assert near._proof(b"client", b"a" * 32 + b"b" * 32 + bytes(32)) == listen_client.proof(
        b"t" * 32, b"client", b"a" * 32, b"b" * 32, bytes(32)
    )


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 100_000, b"\xff" * 16, MAGIC[:-1] + b"\0"]
)
def test_garbage_is_sent_away_at_once(plain, data):
    with connect(plain) as sock:
        try:
            sock.sendall(data)
        except ConnectionError:
            pass

        assert read_all(sock) == b""


@pytest.mark.parametrize("size", [0, 5, len(MAGIC), len(MAGIC) + 32])
def test_who_goes_in_the_middle_of_the_handshake_leaves_nothing(plain, size):
    with connect(plain) as sock:
        sock.sendall((MAGIC + bytes(32))[:size])
        sock.shutdown(socket.SHUT_WR)

        assert read_all(sock)[:16] in (b"", MAGIC)


def test_who_does_not_know_the_token_gets_no_proof(plain):
    with connect(plain) as sock:
        ours = os.urandom(32)
        sock.sendall(MAGIC + ours)
        theirs = exactly(sock, len(MAGIC) + 32)[len(MAGIC) :]

        sock.sendall(listen_client.proof(b"a wrong token 123", b"client", ours, theirs, bytes(32)))

        assert read_all(sock) == b"E00000005token"


def test_a_recorded_handshake_cannot_be_replayed(plain):
    with connect(plain) as sock:
        ours = os.urandom(32)
        sock.sendall(MAGIC + ours)
        theirs = exactly(sock, len(MAGIC) + 32)[len(MAGIC) :]
        recorded = listen_client.proof(secret(plain), b"client", ours, theirs, bytes(32))
        sock.sendall(recorded)
        assert exactly(sock, 41)[:1] == b"P"

    with connect(plain) as sock:
        sock.sendall(MAGIC + ours + recorded)

        answer = read_all(sock)

    assert answer[len(MAGIC) : len(MAGIC) + 32] != theirs
    assert answer[len(MAGIC) + 32 :] == b"E00000005token"


def test_the_proof_of_one_connection_is_none_for_another(plain):
    with connect(plain) as first, connect(plain) as second:
        ours = os.urandom(32)
        nonces = []
        for sock in (first, second):
            sock.sendall(MAGIC + ours)
            nonces.append(exactly(sock, len(MAGIC) + 32)[len(MAGIC) :])

        second.sendall(listen_client.proof(secret(plain), b"client", ours, nonces[0], bytes(32)))

        assert read_all(second) == b"E00000005token"


def test_the_proof_of_a_listener_is_none_for_a_client(plain):
    with connect(plain) as sock:
        ours = os.urandom(32)
        sock.sendall(MAGIC + ours)
        theirs = exactly(sock, len(MAGIC) + 32)[len(MAGIC) :]

        sock.sendall(listen_client.proof(secret(plain), b"server", ours, theirs, bytes(32)))

        assert read_all(sock) == b"E00000005token"


@pytest.mark.parametrize(
    "request_",
    [
        b"R00000002{}",
        b"R00000002[]",
        b"R00000004null",
        b"R00000003{{{",
        b"Rffffffff",
        b"R-0000001",
        b"Rnonsense",
        b"X00000002{}",
        b'R0000004e{"keepalive": "x", "argv": ["true"], "env": {}, "chdir": null, "nice": null}  '[: 9 + 0x4E],
        b'R0000004d{"keepalive": 0, "argv": ["--help"], "env": {}, "chdir": null, "nice": null} '[: 9 + 0x4D],
        b'R0000004d{"keepalive": 0, "argv": ["a\\u0000b"], "env": {}, "chdir": null, "nice": null}'[: 9 + 0x4D],
    ],
)
def test_a_request_that_makes_no_sense_is_refused_though_the_token_is_right(plain, request_, group):
    with connect(plain) as sock:
        prove(plain, sock)
        with suppress(OSError):  # it may have ended the connection at the first byte
            sock.sendall(request_)
            sock.shutdown(socket.SHUT_WR)

        assert read_all(sock)[:1] in (b"", b"E")

    assert group.makegateway(plain.spec()).call(abs, -1) == 1


def test_what_the_request_names_is_one_word_of_the_command(group, plain, tmp_path):
    canary = tmp_path / "canary"

    with pytest.raises(StartError):
        group.makegateway(plain.spec(f"python='python3; touch {canary}'"))

    assert not canary.exists()


def test_one_bad_client_hurts_no_other(group, plain):
    gateway = group.makegateway(plain.spec())
    channel = gateway.remote_exec("for item in channel: channel.send(item)")

    for number in range(20):
        with connect(plain) as sock:
            sock.sendall(os.urandom(100))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        channel.send(number)
        assert channel.receive(20) == number


def test_the_oldest_unfinished_handshakes_are_dropped_when_there_are_too_many(group, plain, eventually):
    with kept([connect(plain) for _ in range(listen.MOST_HALF_OPEN + 10)]) as slow:
        for sock in slow[:8]:
            assert read_all(sock) == b""

        assert group.makegateway(plain.spec()).call(abs, -1) == 1
        eventually(lambda: plain.log.read_text().count("too many clients have not finished the handshake") >= 10)


def test_a_slow_handshake_ends_after_its_time(group, tmp_path):
    token = guard.read_token(f"file:{write_token(tmp_path)}")
    what, source, name, main, none, options = listen_task(token, ("127.0.0.1", 0))
    options["source"] = options["source"].replace("HANDSHAKE_SECONDS = 10.0", "HANDSHAKE_SECONDS = 0.3")
    channel = run(group.makegateway("popen")._run((what, source, name, main, none, options)))
    address = parse_address(channel.receive(20)[1][0])

    with socket.create_connection((address.host, address.port), timeout=20) as sock:
        sock.sendall(MAGIC[:3])

        assert read_all(sock) == b""


def test_a_client_without_tls_is_sent_away_by_a_listener_with_it(secure):
    with connect(secure) as sock:
        sock.sendall(MAGIC + bytes(32))

        assert MAGIC not in read_all(sock)


# -- secrets


def test_the_token_is_in_no_command_line_log_text_or_error(group, plain, secure, certificates, tmp_path):
    tokens = [listener.token.read_text().strip() for listener in (plain, secure)]
    gateways = [group.makegateway(plain.spec()), group.makegateway(secure.spec(f"tls=ca:{certificates.ca}"))]
    shown = [repr(gateway) + repr(gateway.spec) + str(gateway.remoteaddress) for gateway in gateways]
    shown += [repr(vars(gateway._session.transport.plan)) for gateway in gateways]

    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            shown.append(entry.read_bytes().decode("utf-8", "replace"))
    shown += [gateway.remote_exec("import os; channel.send(repr(os.environ))").receive(20) for gateway in gateways]
    shown += [listener.log.read_text() for listener in (plain, secure)]
    with pytest.raises(AuthenticationFailed) as caught:
        start(group, plain.address, secure.token)
    shown.append(str(caught.value))
    frames = [frame for frame, _ in traceback.walk_tb(caught.tb) if "/execgw/" in frame.f_code.co_filename]
    shown += [repr(frame.f_locals) for frame in frames]

    assert [token for token in tokens if any(token in text for text in shown)] == []
    assert frames
    assert any("started process" in text for text in shown)

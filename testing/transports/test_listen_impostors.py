"""What a false listener may answer, or one with another certificate: no request leaves us, and the error says why."""

from __future__ import annotations

import http.server
import os
import socket
import threading

import pytest
from listener import Certificates, connect, exactly, forward, read_all, serving, start, write_token

from execgw.errors import AuthenticationFailed, HandshakeError, HostKeyRefused
from execgw.transports import guard

MAGIC = guard.MAGIC
ANY_TLS = "tls=sha256:" + "0" * 64


@pytest.mark.parametrize("through", [[], ["via=first"]])
def test_a_listener_with_another_token_is_told_from_both_sides(group, plain, tmp_path, through):
    group.makegateway("popen//id=first")
    other = write_token(tmp_path)

    with pytest.raises(AuthenticationFailed, match=r"does not take the token of file:.*--token-file"):
        start(group, plain.address, other, *through)


@pytest.mark.parametrize("through", [[], ["via=first"]])
def test_who_pretends_to_know_the_token_is_found_out(group, tmp_path, through):
    group.makegateway("popen//id=first")
    token = write_token(tmp_path)

    def pretend(sock: socket.socket) -> None:
        exactly(sock, 48)
        sock.sendall(MAGIC + os.urandom(32))
        exactly(sock, 32)
        sock.sendall(b"P00000020" + os.urandom(32))
        exactly(sock, 1)
        got.append("more than a proof")

    got: list[str] = []
    with serving(pretend) as address, pytest.raises(AuthenticationFailed, match="does not know the token"):
        start(group, address, token, *through)

    assert got == []


def test_our_own_proof_sent_back_is_no_proof(group, tmp_path):
    def reflect(sock: socket.socket) -> None:
        sock.sendall(exactly(sock, 48))
        sock.sendall(b"P00000020" + exactly(sock, 32))

    with serving(reflect) as address, pytest.raises(AuthenticationFailed, match="does not know the token"):
        start(group, address, write_token(tmp_path))


def test_an_echo_is_no_listener(group, tmp_path):
    def echo(sock: socket.socket) -> None:
        while data := sock.recv(65536):
            sock.sendall(data)

    with serving(echo) as address, pytest.raises(HandshakeError, match="what no listener would"):
        start(group, address, write_token(tmp_path))


def test_a_web_server_is_no_listener(group, tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with pytest.raises(HandshakeError, match=r"no execgw listener|connection ended|said nothing"):
            start(group, f"127.0.0.1:{server.server_port}", write_token(tmp_path), "start_timeout=4")
        server.shutdown()
        thread.join()


class _Quiet(http.server.BaseHTTPRequestHandler):
    timeout = 1  # seconds for a request to come

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize("through", [[], ["via=first"]])
@pytest.mark.parametrize("banner", [b"SSH-2.0-OpenSSH_9.2\r\n", b"220 mail ESMTP\r\n", b"\x15\x03\x03\x00\x02\x02\x46"])
def test_who_speaks_another_protocol_is_named_at_once(group, tmp_path, banner, through):
    group.makegateway("popen//id=first")

    def greet(sock: socket.socket) -> None:
        sock.sendall(banner)
        sock.recv(1000)

    hint = "tls=ca:FILE" if banner[:1] == b"\x15" else "is that the listener's port"
    with serving(greet) as address, pytest.raises(HandshakeError, match=hint):
        start(group, address, write_token(tmp_path), *through)


@pytest.mark.parametrize(
    "more", [[], ["via=first"], ["tls=sha256:" + "0" * 64], ["tls=sha256:" + "0" * 64, "via=first"]]
)
def test_who_says_nothing_is_given_up_in_time(group, tmp_path, more):
    group.makegateway("popen//id=first")

    with serving(read_all) as address, pytest.raises(HandshakeError, match=r"said nothing.*within"):
        start(group, address, write_token(tmp_path), "start_timeout=2", *more)


@pytest.mark.parametrize("more", [[], ["via=first"], [ANY_TLS]])
def test_who_hangs_up_is_told(group, tmp_path, more):
    group.makegateway("popen//id=first")

    with serving(socket.socket.close) as address, pytest.raises(HandshakeError, match="connection ended"):
        start(group, address, write_token(tmp_path), *more)


# -- TLS


@pytest.mark.parametrize("through", [[], ["via=first"]])
def test_a_certificate_of_another_authority_is_refused(group, secure, tmp_path, through):
    group.makegateway("popen//id=first")
    other = Certificates(tmp_path / "other")

    with pytest.raises(HostKeyRefused, match="not trusted"):
        start(group, secure.address, secure.token, f"tls=ca:{other.ca}", *through)


@pytest.mark.parametrize("through", [[], ["via=first"]])
def test_a_certificate_with_another_fingerprint_is_refused(group, secure, through):
    group.makegateway("popen//id=first")

    with pytest.raises(HostKeyRefused, match=f"its SHA-256 is {secure.fingerprint}"):
        start(group, secure.address, secure.token, f"tls=sha256:{'0' * 64}", *through)


def test_a_certificate_for_another_name_is_refused(group, certificates, secure):
    with (
        serving(lambda sock: forward(sock, secure), "127.0.0.2") as between,
        pytest.raises(HostKeyRefused, match=r"not trusted.*127\.0\.0\.2"),
    ):
        start(group, between, secure.token, f"tls=ca:{certificates.ca}")


def test_a_listener_without_tls_is_told_from_one_with_it(group, plain, secure):
    with pytest.raises(HandshakeError, match=r"leave out tls=|is it a listener with --tls-cert"):
        start(group, plain.address, plain.token, f"tls=sha256:{'0' * 64}")
    with pytest.raises(HandshakeError, match="tls=ca:FILE or tls=sha256:HEX"):
        start(group, secure.address, secure.token)


def test_who_ends_tls_itself_cannot_hand_the_proof_on(group, secure, tmp_path):
    # given a man in the middle with a certificate that the client takes
    import ssl

    own = Certificates(tmp_path / "own")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.cert, own.key)
    outward = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outward.check_hostname, outward.verify_mode = False, ssl.CERT_NONE

    def between(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as near, outward.wrap_socket(connect(secure)) as far:
            far.sendall(exactly(near, 48))
            near.sendall(exactly(far, 48))
            far.sendall(exactly(near, 32))
            near.sendall(read_all(far))

    # when it hands on all messages of the handshake, then the proofs are for another certificate
    with serving(between) as address, pytest.raises(AuthenticationFailed):
        start(group, address, secure.token, f"tls=ca:{own.ca}")

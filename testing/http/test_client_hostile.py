"""What a server can do to its client: end its own gateway with an error, and nothing else."""

from __future__ import annotations

import json
import socket

import pytest
from listener import serving as answering_each

from execgw import StartError
from execgw.http.client_requests import MOST_BODY, Requests
from execgw.http.client_server import Server, told
from execgw.transports.base import Ended
from execgw.wire import frames as f

HELLO = f.MARKER + f.HEADER.pack(f.HELLO, 0, 0, 0, 0, 0, 0)
CREATED = {"pid": "0123456789abcdef", "protocol": "frames", "websocket": False}
HUGE = f.HEADER.pack(f.DATA, 0, 1, 1, 1, 0, 0xFFFFFFFF)


def answer(status: str, body: bytes, **headers: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Length: {len(body)}",
        *(f"{n.replace('_', '-')}: {v}" for n, v in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def a_server(*, get: bytes = b"", post: bytes = answer("202 Accepted", b"", Execgw_Had="0")):
    """Starts anything; then each GET and each POST of frames has one answer."""

    def serve(client: socket.socket) -> None:
        while request := client.recv(65536):
            if request.startswith(b"POST /popen"):
                client.sendall(answer("201 Created", json.dumps(CREATED).encode()))
            elif b"/output" in request.split(b"\r\n")[0]:
                pass  # it waits
            elif request.startswith(b"GET"):
                client.sendall(get)
            elif request.startswith(b"POST"):
                client.sendall(post)
            else:
                client.sendall(answer("200 OK", b"{}"))

    return answering_each(serve)


def failing(group, address: str) -> str:
    with pytest.raises(StartError) as caught:
        group.makegateway(f"http={address}//start_timeout=3//resume=1")
    return str(caught.value)


def test_an_endless_answer_is_not_kept():
    def serve(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            client.sendall(bytes(1 << 20))

    with answering_each(serve) as address:
        host, _, port = address.partition(":")
        server = Server("x", host, int(port), "", None, None)
        with Requests(server, 0) as requests, pytest.raises(ConnectionError, match=f"more than {MOST_BODY} bytes"):
            requests.ask("GET", "/", 20)


def test_a_frame_without_measure_ends_the_start(group):
    with a_server(get=answer("200 OK", HELLO + HUGE + bytes(1000))) as address:
        assert "no frame" in failing(group, address)


def test_bytes_that_are_no_worker_end_the_start(group):
    with a_server(get=answer("200 OK", b"x" * 200_000)) as address:
        failing(group, address)


def test_a_server_that_claims_frames_which_never_were_is_given_up(group):
    greedy = answer("202 Accepted", b"", Execgw_Had="77", Execgw_Greeted="1")
    with a_server(get=answer("204 No Content", b""), post=greedy) as address:
        failing(group, address)


@pytest.mark.parametrize("text", [b"[" * 100_000, b"9" * 10_000, b"\xff\xfe", b'{"a":' * 50_000])
def test_json_that_cannot_be_read_says_nothing(text):
    assert told(text) == {}


@pytest.mark.parametrize(
    "said", [{"code": "4404"}, {"code": None}, {"status": "410"}, {"status": []}, {"error": 7}, {}]
)
def test_words_that_make_no_sense_end_nothing(group, exec_server, said):
    gw = group.makegateway(exec_server.spec())

    assert gw._session.transport._http.tell(said) is None


@pytest.mark.parametrize(
    "code, signal", [(-5, None), (1 << 40, None), ("3", None), (None, "SIGNOTHING"), (None, "__doc__")]
)
def test_an_end_that_makes_no_sense_is_an_end_that_is_not_known(group, exec_server, code, signal):
    gw = group.makegateway(exec_server.spec())

    ended = gw._session.transport._http.tell({"error": "ended", "exit_code": code, "signal": signal, "stderr": 7})

    assert isinstance(ended, Ended) and ended.exit_code is None

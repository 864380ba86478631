"""An open WebSocket with a program at its far end, in a thread; without a server, for who tests the near end alone."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from execgw.http.client_socket import WebSocketLink


def link_to(program: Callable[[int], None]) -> WebSocketLink:
    """The near end; program(descriptor) reads and writes what the messages hold."""
    ours, theirs = socket.socketpair()
    inner, far = socket.socketpair()
    protocol = ServerProtocol(state=OPEN, max_size=None)

    def up() -> None:
        with contextlib.suppress(OSError):
            while data := theirs.recv(65536):
                protocol.receive_data(data)
                for frame in protocol.events_received():
                    assert isinstance(frame, Frame)
                    inner.sendall(frame.data)
        with contextlib.suppress(OSError):
            inner.shutdown(socket.SHUT_WR)

    def down() -> None:
        with contextlib.suppress(OSError):
            while data := inner.recv(65536):
                theirs.sendall(Frame(Opcode.BINARY, data).serialize(mask=False))
        with contextlib.suppress(OSError):
            theirs.shutdown(socket.SHUT_RDWR)

    def run() -> None:
        threads = [threading.Thread(target=work) for work in (up, down)]
        for thread in threads:
            thread.start()
        with far, contextlib.suppress(OSError):
            program(far.fileno())
        for thread in threads:
            thread.join()
        inner.close()
        theirs.close()

    threading.Thread(target=run).start()
    return WebSocketLink(ours, ClientProtocol(parse_uri("ws://far/"), state=OPEN), 0, lambda said: None)

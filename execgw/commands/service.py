"""execgw service ADDRESS: a factory of workers for other processes, ready until it is ended."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING

from ..errors import SpecError
from ..transports.address import parse_address
from ..transports.factory import start_factory
from ..transports.factory_tcp import warm_listener
from . import new_parser
from .listen import listen_on

if TYPE_CHECKING:
    from . import Commands

EXAMPLES = """
A Unix socket is for this user alone (mode 600, and the user of each client is asked of the kernel); a port is for
whoever knows the token.  Who is let in may run anything with your rights.  Workers end with the process that has asked
for them, or with the service.

examples:
  execgw service unix:/run/user/1000/factory
  execgw service unix:/run/user/1000/factory --preload numpy,pandas --limit 50
  execgw service 127.0.0.1:8888 --token-file token

clients: group.setlocalfactory("/run/user/1000/factory"), with the same version of execgw and of Python, or
group.setlocalfactory(port=8888, token="file:token")
"""


def add(commands: Commands) -> None:
    """Register the command."""
    service = new_parser(commands, "service", "start workers for other processes, in milliseconds", EXAMPLES)
    service.add_argument("address", metavar="ADDRESS", help="unix:PATH, HOST:PORT or [IPV6]:PORT")
    service.add_argument("--preload", metavar="MODULES", help="what to import once for all workers: numpy,pandas")
    service.add_argument("--limit", type=int, metavar="N", help="how many workers there may be at a time")
    service.add_argument("--token-file", metavar="FILE", help="for a port: a secret that only you may read (mode 600)")
    service.add_argument("--tls-cert", metavar="FILE", help="for a port beyond 127.0.0.1: the certificate, PEM")
    service.add_argument("--tls-key", metavar="FILE", help="its private key, PEM")
    service.set_defaults(python=None)
    service.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM, or until the fork server dies."""
    address = parse_address(args.address, any_port=True)
    if address.path is None:
        if args.token_file is None:
            raise SpecError(f"{args.address}: who may connect there has to prove it: give --token-file FILE")
        return listen_on(args, "execgw serves workers at", factory=warm_listener(args.preload, args.limit))
    signal.signal(signal.SIGTERM, _interrupt)
    listening = bind_private(address.path)
    try:
        factory = start_factory("service", args.preload, args.limit)
        try:
            factory.listen(listening)
            print(f"execgw serves workers at unix:{address.path}", flush=True)
            assert factory.process is not None
            code = factory.process.wait()
            print(f"execgw service: the fork server has ended ({code})", flush=True)
            return 1
        except KeyboardInterrupt:
            return 0
        finally:
            factory.close()
    finally:
        listening.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address.path)


def bind_private(path: str) -> socket.socket:
    """Listen on a Unix socket that only this user may connect to; one that a dead service has left is replaced."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            pass
        else:
            raise SpecError(f"unix:{path}: somebody serves there already")
        sock.close()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(mask)
        sock.listen(128)
    except OSError as e:
        sock.close()
        raise SpecError(f"unix:{path}: {e.strerror}") from e
    except BaseException:
        sock.close()
        raise
    return sock


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt

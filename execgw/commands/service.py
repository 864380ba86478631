"""execgw service unix:PATH: a factory of workers for all processes of this user, ready until it is ended."""

from __future__ import annotations

import argparse
import os
import signal
import socket
from typing import TYPE_CHECKING

from ..errors import SpecError
from ..transports.address import parse_address
from ..transports.factory import start_factory
from . import new_parser

if TYPE_CHECKING:
    from . import Commands

EXAMPLES = """
The socket is for this user alone (mode 600, and the user of each client is asked of the kernel): who may connect may
run anything with your rights.  Workers end with the process that has asked for them, or with the service.

examples:
  execgw service unix:/run/user/1000/factory
  execgw service unix:/run/user/1000/factory --preload numpy,pandas --limit 50

clients: group.setlocalfactory("/run/user/1000/factory"), with the same version of execgw and of Python
"""


def add(commands: Commands) -> None:
    """Register the command."""
    service = new_parser(commands, "service", "start workers for other processes, in milliseconds", EXAMPLES)
    service.add_argument("address", metavar="ADDRESS", help="unix:PATH")
    service.add_argument("--preload", metavar="MODULES", help="what to import once for all workers: numpy,pandas")
    service.add_argument("--limit", type=int, metavar="N", help="how many workers there may be at a time")
    service.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM, or until the fork server dies."""
    address = parse_address(args.address)
    if address.path is None:
        raise SpecError(f"{args.address!r}: a service needs unix:PATH; for clients on other hosts: execgw listen")
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

"""installvia=: a listener of our own on the host of another gateway, for one client: this process.

Its token is made here and goes there through that gateway.  If 127.0.0.1 is the same for both, that is where it
listens; else it listens on the address under which ssh has reached that host, with a certificate that is made here for
this one connection.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import ssl
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import _bundle
from ..errors import LoadError, StartError
from ..peer.compat import clock
from ..peer.remote import unpack_error
from .address import parse_address
from .guard import Token, Trust

if TYPE_CHECKING:
    from .._session import Session
    from ..wire.mux import Port
    from .tcp import Plan

# On stdout: the key and the certificate; it is valid because its SHA-256 is known, not because of its dates.
MAKE_CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "
    "-days 30 -subj /CN=execgw -keyout - -out -"
)


def listen_task(token: Token, address: Any, **more: Any) -> tuple[Any, ...]:
    """The task that listens: main() of worker/tasks/listen.py with its arguments; see there."""
    source, filename = _bundle.task("listen")
    options = {"source": _bundle.task("listen_client")[0], "token": token.text(), "address": address, **more}
    return "function", source, filename, "main", (), options


def new_token() -> Token:
    """A token that nobody has seen."""
    return Token(secrets.token_hex(32).encode("ascii"), "installvia=")


def network() -> str:
    """What two processes have in common if 127.0.0.1 is the same for both; '' if that cannot be known."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/net')}"
    except OSError:
        return ""


def installing(gateway: Session) -> Callable[[Plan], Callable[[], None]]:
    """A function that starts the listener, puts its address into the plan, and returns how to end it."""

    def install(plan: Plan) -> Callable[[], None]:
        port, answer = _ask(gateway, plan, None)
        if answer[0] == "failed" and answer[2] == "tls":
            _end(gateway, port)
            pem, fingerprint = _make_certificate(plan.where)
            plan.trust = Trust(pin=fingerprint)
            port, answer = _ask(gateway, plan, {"pem": pem})
        if answer[0] == "failed":
            _end(gateway, port)
            raise StartError(f"{plan.where}: installvia={gateway.id}: {_advice(gateway, plan, answer)}")
        there = parse_address(answer[1][0])
        host = plan.address.host if plan.address is not None else there.host
        plan.address = type(there)(host, there.port, there.path)
        return lambda: _end(gateway, port)

    return install


def _advice(gateway: Session, plan: Plan, answer: tuple[Any, ...]) -> str:
    if answer[2] == "address":
        return (
            "it is on another host, and no address of that is known; name one that leads there, "
            f"socket=HOST:0//installvia={gateway.id}, or go through it: popen//via={gateway.id}"
        )
    return f"no listener at {plan.address or 'its address'}: {answer[1]}"


def _ask(gateway: Session, plan: Plan, tls: dict[str, str] | None) -> tuple[Port, tuple[Any, ...]]:
    """Start the listener and wait for what it says first."""
    address = (None, 0) if plan.address is None else plan.address.target()
    task = listen_task(plan.token, address, tls=tls, once=True, home=network())
    form, data = gateway.codec.encode(task)
    with gateway.lock:
        port = gateway.mux.open()
    answer: Any = None
    try:
        gateway.send_task(port, form, data)
        item = gateway.receive(port, plan.deadline - clock())
        if type(item) is tuple:
            answer = gateway.codec.decode(*item)
    except (OSError, LoadError):
        pass
    if type(answer) is tuple and answer[0] in ("listening", "failed"):
        return port, answer
    why = str(gateway.lost or "it does not answer")
    if isinstance(port.error, bytes):
        why = str(unpack_error(gateway.codec, port.error)).strip().splitlines()[-1]
    _end(gateway, port)
    raise StartError(f"{plan.where}: installvia={gateway.id}: the listener could not be started there: {why}")


def _end(gateway: Session, port: Port) -> None:
    gateway.close(port)


def _make_certificate(where: str) -> tuple[str, bytes]:
    """(key and certificate as PEM, SHA-256 of the certificate)"""
    try:
        done = subprocess.run(MAKE_CERTIFICATE.split(), capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as e:
        raise StartError(
            f"{where}: the listener is on another host and needs a certificate, which the command openssl makes here, "
            f"and that failed: {e}; install openssl, or go through the gateway: popen//via="
        ) from e
    pem = done.stdout.decode("ascii")
    begin = pem.index("-----BEGIN CERTIFICATE-----")
    return pem, hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem[begin:])).digest()

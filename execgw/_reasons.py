"""In words: why a gateway did not start, and why it is no more."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

from . import _bundle
from .errors import ClosedHere, ConnectionLost, ExecgwError, HandshakeError, RemoteProtocolError, StartError
from .transports.base import Ended
from .wire import frames as f
from .wire.printable import printable

if TYPE_CHECKING:
    from ._session import Session
    from .transports.base import Explanation

LAST_SECONDS = 0.5  # how long a process may live on after its link has ended, before it is killed
NO_TERMINAL = (
    "a terminal changes bytes, and so does a filter for text; leave out what asks for a terminal: "
    "ssh -t, docker exec -t, kubectl exec -t, script"
)
LONGEST_SAID = 500  # characters of a text of the worker's in a message


class Silence(ConnectionLost):
    """Nothing was heard for so long that the worker counts as gone."""


async def start_problem(session: Session, seconds: float) -> StartError | None:
    """Why no worker came to be in *seconds*; None if one did.  The process may still run."""
    where = f"gateway {session.id!r}"
    how = session.transport.program
    if session.about is not None:
        if session.about.get("problem"):
            problem = printable(session.about["problem"][:LONGEST_SAID])
            return StartError(f"{where}: the worker could not start: {problem}")
        if session.about.get("version") != str(f.VERSION):
            version = session.about.get("version", "")[:LONGEST_SAID]
            return HandshakeError(f"{where}: the worker speaks version {version!r}, this side {f.VERSION}")
        try:
            session.codec.protocol = min(session.codec.protocol, max(int(session.about["protocol"]), 2))
        except (KeyError, ValueError):
            return HandshakeError(f"{where}: the worker's hello makes no sense: {session.about!r}"[:500])
        return None
    noise = session._noise[:200]
    if session.broken is None:
        doing = session.transport.doing()
        session.transport.kill(force=True)
        await session.ended_within(LAST_SECONDS)  # a relay tells the last words of its child when that has ended
        ended = session.transport.ended()
        said = _said(ended.stderr if ended else session.transport.last_words(), noise)
        return StartError(f"{where}: no answer within {seconds:g} s{doing}{said}; it was started as: {how}"[:2000])
    if isinstance(session.broken, StartError):
        return session.broken
    await session.ended_within(LAST_SECONDS * 2)
    ended = session.transport.ended() or Ended()
    code, stderr = ended.exit_code, ended.stderr
    hop = session._lost_hop()
    if code is None and hop is not None:
        return StartError(f"{where}: the gateway that it is reached through ended during the start: {hop.lost}")
    kind, hint = _meaning(session, ended) or (StartError, "")
    text = f"{where}: the process ended during the start ({ended.why or _exit(code)}){_said(stderr, noise)}"
    hint = f"\n    {hint}" if hint else ""
    return kind(f"{text}; it was started as: {how}"[:4000] + hint, code, stderr)


def _meaning(session: Session, ended: Ended) -> Explanation | None:
    said = ended.stderr + session._noise.decode("utf-8", "replace")
    # A terminal shows control characters as ^X, and for ^C and ^\ kills the program (130, 131) before it can tell.
    killed = ended.exit_code in (130, 131)
    if killed or _bundle.A_TERMINAL in said or re.search(rb"\^[@-_]", session._noise):
        return HandshakeError, NO_TERMINAL
    if _bundle.CHANGED in said:
        return HandshakeError, "what is between must carry all 256 byte values unchanged"
    return session.transport.explain(ended) if session.transport.explain else None


def obituary(session: Session, ended: Ended | None) -> ExecgwError:
    """What whoever waits on a lost gateway is told."""
    if session.leaving:
        return ClosedHere(f"gateway {session.id!r} was ended by this side")
    code = ended.exit_code if ended else None
    stderr = ended.stderr if ended else ""
    hop = session._lost_hop()
    if code is None and hop is not None:
        text = f"gateway {session.id!r} ended with the one that it was reached through: {hop.lost}"
        return ClosedHere(text) if isinstance(hop.lost, ClosedHere) else ConnectionLost(text)
    if isinstance(session.broken, Silence):  # the exit code is that of our own kill
        return ConnectionLost(f"gateway {session.id!r}: connection lost: {session.broken}{_said(stderr, b'')}")
    how = _exit(code)
    if ended and ended.why:
        how = ended.why if session.transport.resumes and code is None else f"{ended.why}; {how}"
    if isinstance(session.broken, RemoteProtocolError):  # the exit code may be that of our own kill
        how = f"the worker broke the rules of the protocol: {session.broken}; {how}"
    lost = ConnectionLost(f"gateway {session.id!r}: connection lost ({how}){_said(stderr, b'')}")
    lost.exit_code = code
    lost.signal = _signal_name(code) if code is not None and code < 0 else None
    lost.stderr = stderr
    return lost


def _exit(code: int | None) -> str:
    if code is None:
        return "how it ended is not known"
    if code >= 0:
        return f"exit code {code}"
    return f"killed by {_signal_name(code)}"


def _signal_name(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _said(stderr: str, noise: bytes) -> str:
    text = ""
    if noise:
        text += f"; it wrote {noise[:200]!r} where a worker's hello was expected"
    if stderr.strip():
        text += "; its stderr ends:\n    " + "\n    ".join(map(printable, stderr.strip().splitlines()[-8:])) + "\n "
    return text

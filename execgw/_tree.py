"""What a group's gateways are and do, one below the other as they are reached: tree(group), for people and programs."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from . import transports
from .errors import ExecgwError
from .hierarchy import ChannelGateway
from .peer.compat import clock
from .wire.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

    from ._session import Session
    from .gateway import Gateway

ASK_SECONDS = 2.0
MOST_AT_A_TIME = 32
MOST = 1 << 52
LONGEST = 200  # characters of a text of a worker's
COLUMNS = ("gateway", "kind", "host", "pid", "python", "tasks", "queue", "credit", "trip", "memory", "age")


@dataclass(frozen=True)
class Node:
    """One gateway.

    kind        the spec key that chose it, or 'channel' for a ChannelGateway
    state       'live', 'lost', 'silent': no answer in time, or 'away': neither, for its link is broken (resume=)
    tasks       code that runs there, and `queued` what waits for the main thread
    waiting     items that wait to be received there, in all channels
    credit      bytes that it may send on the channel that has least left; None without channels
    round_trip  seconds that the question took
    memory      bytes of resident memory; 0 where that is not to be known
    cpu, age    seconds of processor time, and since its start
    below       the gateways that are reached through it
    """

    id: str
    kind: str
    state: str = "live"
    host: str = ""
    pid: int = 0
    python: str = ""
    platform: str = ""
    tasks: int = 0
    queued: int = 0
    waiting: int = 0
    credit: int | None = None
    round_trip: float | None = None
    memory: int = 0
    cpu: float = 0.0
    age: float = 0.0
    below: list[Node] = field(default_factory=list)

    def __iter__(self) -> Iterator[Node]:
        """This one and all below it."""
        yield self
        for node in self.below:
            yield from node


@dataclass(frozen=True)
class Tree:
    """The gateways of one process.  str() shows it as text; rich.print() shows it as a table."""

    pid: int
    host: str
    program: str
    nodes: list[Node]

    def __iter__(self) -> Iterator[Node]:
        """All gateways, each before those below it."""
        for node in self.nodes:
            yield from node

    def as_dict(self) -> dict[str, Any]:
        """The same as dicts and lists, for JSON."""
        return asdict(self)

    def rows(self) -> list[tuple[str, ...]]:
        """One row of texts for each gateway, as COLUMNS names them."""
        return [row for node in self.nodes for row in _rows(node, "", "")]

    @property
    def title(self) -> str:
        """What process this is."""
        return f"{self.program} (pid {self.pid} on {self.host})"

    def __str__(self) -> str:
        rows = [COLUMNS, *self.rows()]
        widths = [max(len(row[at]) for row in rows) for at in range(len(COLUMNS))]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([self.title, *lines])

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self.title), title_justify="left", box=None, header_style="bold", pad_edge=False)
        for name in COLUMNS:
            table.add_column(name, justify="left" if name in COLUMNS[:3] or name == "python" else "right")
        for node, row in zip(self, self.rows(), strict=True):
            table.add_row(*map(Text, row), style="" if node.state == "live" else "red")
        return table


def tree(gateways: Iterable[Gateway], timeout: float = ASK_SECONDS) -> Tree:
    """What the gateways of a group are and do now; each worker is asked, all at the same time.

    A worker that does not answer within *timeout* seconds is shown as 'silent'.
    """
    asked = list(gateways)
    with ThreadPoolExecutor(max(1, min(len(asked), MOST_AT_A_TIME)), "execgw-tree") as pool:
        looked = pool.map(_look, asked, [timeout] * len(asked))
        nodes = {gateway._session: node for gateway, node in zip(asked, looked, strict=True)}
    top: list[Node] = []
    for session, node in nodes.items():
        above = session.via
        while above is not None and above not in nodes:
            above = above.via
        (top if above is None else nodes[above].below).append(node)
    script = (sys.argv[0] if sys.argv else "") or sys.executable
    script = os.path.dirname(script) if os.path.basename(script) == "__main__.py" else script
    program = " ".join([os.path.basename(script), *sys.argv[1:]])
    return Tree(os.getpid(), socket.gethostname(), _text(program), top)


def _look(gateway: Gateway, timeout: float) -> Node:
    session = gateway._session
    about = session.about or {}
    facts: dict[str, Any] = {
        "kind": _kind(gateway),
        "pid": _number(about.get("pid", "")),
        "python": _text(about.get("python", "")),
        "platform": _text(about.get("platform", "")),
        "age": clock() - session.begun,
    }
    try:
        status = gateway.status(timeout)
    except (ExecgwError, OSError):
        return Node(gateway.id, state=_state(session), **facts)
    return Node(
        gateway.id,
        host=_text(status.host),
        tasks=len(status.running),
        queued=_small(status.queued),
        waiting=_small(sum(channel.waiting for channel in status.channels.values())),
        credit=min((_small(channel.credit) for channel in status.channels.values()), default=None),
        round_trip=status.round_trip,
        memory=_small(status.memory),
        cpu=status.cpu,
        **facts,
    )


def _state(session: Session) -> str:
    """Why it has not answered."""
    if session.lost is not None:
        return "lost"
    return "away" if session.transport.resumes and session.transport.fileno() is None else "silent"


def _kind(gateway: Gateway) -> str:
    if isinstance(gateway, ChannelGateway):
        return "channel"
    keys = gateway.spec.keys()
    return next((key for key in keys if key in transports.names()), keys[0])


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 12 else 0


def _small(number: int) -> int:
    """What a worker says may be any number; this one can be computed with."""
    return max(min(number, MOST), -MOST)


def _text(text: str) -> str:
    return printable(text.replace("\n", " ")).replace("\x1b", "")[:LONGEST]


def tree_of(told: Any) -> Tree:
    """The tree that as_dict() came from, which another process has sent; ValueError if it is none."""
    try:
        return Tree(int(told["pid"]), str(told["host"]), str(told["program"]), [_node_of(n) for n in told["nodes"]])
    except (KeyError, TypeError, RecursionError) as e:
        raise ValueError(f"no tree of gateways: {e!r}") from e


def _node_of(told: dict[str, Any]) -> Node:
    return Node(**{**told, "below": [_node_of(below) for below in told["below"]]})


# -- as text


def _rows(node: Node, lead: str, inner: str) -> Iterator[tuple[str, ...]]:
    facts = (f"{node.tasks}", f"{node.queued}+{node.waiting}", _size(node.credit), _trip(node.round_trip))
    if node.state != "live":
        facts = (node.state, "", "", "")
    memory = _size(node.memory or None)
    yield lead + node.id, node.kind, node.host, f"{node.pid}", node.python, *facts, memory, _time(node.age)
    for at, below in enumerate(node.below, 1):
        last = at == len(node.below)
        yield from _rows(below, inner + ("└ " if last else "├ "), inner + ("  " if last else "│ "))


def _size(size: float | None) -> str:
    if size is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _trip(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


def _time(seconds: float) -> str:
    for unit, size in (("s", 60), ("min", 60), ("h", 24)):
        if seconds < size:
            return f"{seconds:.0f} {unit}"
        seconds /= size
    return f"{seconds:.0f} d"

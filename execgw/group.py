"""The sync face: groups of gateways; making, finding, broadcasting, ending."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, TypeVar

from . import _monitor, _rooms
from ._dispatch import Dispatcher, batched
from ._face import NearGroup
from ._hub import Hub
from ._loop import run
from ._tree import ASK_SECONDS, Tree, tree
from .gateway import Gateway
from .multi import MultiChannel
from .peer.compat import clock
from .spec import XSpec

if TYPE_CHECKING:
    from .transports.base import AnyFactory

MOST_AT_A_TIME = 32  # gateways that take several steps each
CLEAN_SECONDS = 10.0  # for these steps to leave nothing when another one has failed

T = TypeVar("T")


class Group(NearGroup[Gateway]):
    """Gateways that belong together.  A container of them, in the order in which they were made.

    `with Group() as group:` ends all gateways at the end.  *xspecs* are made at once; *execmodel* is 'thread' or
    'main_thread_only', see set_execmodel.
    """

    _gateway_class = Gateway

    def __init__(self, xspecs: Iterable[XSpec | str | None] = (), execmodel: str = "thread") -> None:
        super().__init__(Hub(), execmodel)
        self._monitors: list[_monitor.Monitor] = []
        # By this name on the module: test suites replace atexit.register, and run what was given to it themselves.
        atexit.register(self._cleanup_atexit)
        for spec in xspecs:
            self.makegateway(spec)

    # -- making

    def makegateway(self, spec: XSpec | str | None = None, *, stdout: Any = None, stderr: Any = None) -> Gateway:
        """Start a worker as *spec* says, and return the gateway to it.

        The default is `defaultspec`, 'popen': a process on this host with this interpreter.
        Raises SpecError (a ValueError) for what is no spec and StartError, with the child's last stderr lines, if no
        worker comes to be within its start_timeout= (30 s).
        *stdout* and *stderr* say where what runs there prints to: "inherit", "null", a function that gets each line,
        a file, or "channel" (gateway.stdout and gateway.stderr then give the lines).  Without them stdout is thrown
        away and stderr inherited.
        """
        gateway = self.makegateways([spec])[0]
        try:
            run(gateway._set_output(stdout, stderr))
        except BaseException:
            self._end([gateway], 0)
            raise
        return gateway

    def makegateways(self, specs: Iterable[XSpec | str | None]) -> list[Gateway]:
        """Start many workers at the same time and return their gateways, in the order of *specs*.

        If one fails, its error is raised and none is left.
        """
        _monitor.attach_if_asked(self)
        made = [self._as_spec(spec) for spec in specs]
        wrapped = {number: found for number, spec in enumerate(made) if (found := _rooms.wrapper_of(spec)) is not None}
        gateways = self._make_wrapped(made, wrapped) if wrapped else self._begin(made)
        self._gateways.extend(gateways)
        return gateways

    def _begin(self, made: list[XSpec]) -> list[Gateway]:
        """Start workers; their gateways are not yet in the list."""
        return run(self._start(made))

    def _make_wrapped(self, made: list[XSpec], wrapped: dict[int, _rooms.Wrapper]) -> list[Gateway]:
        """The plain ones first, then all others at the same time: each takes several steps."""
        for spec in made:
            self.allocate_id(spec)
        plain = [number for number in range(len(made)) if number not in wrapped]
        done = dict(zip(plain, self._begin([made[number] for number in plain]), strict=True))

        begun: list[Gateway] = []  # by wrappers, those included that they have ended

        def begin(spec: XSpec) -> Gateway:
            begun.append(self._begin([spec])[0])
            return begun[-1]

        def start(number: int) -> None:
            done[number] = wrapped[number].start(made[number], begin)
            done[number].spec = made[number]

        threads = ThreadPoolExecutor(min(len(wrapped), MOST_AT_A_TIME))
        try:
            if len(wrapped) == 1:
                start(*wrapped)
            for future in as_completed([threads.submit(start, number) for number in wrapped if len(wrapped) > 1]):
                future.result()
        except BaseException:  # whoever waits for one of these hears that it has ended
            self._end([gateway for gateway in begun if gateway.hasreceiver()], CLEAN_SECONDS)
            threads.shutdown(cancel_futures=True)
            self._end([gateway for gateway in [*begun, *done.values()] if gateway.hasreceiver()], 0)
            raise
        finally:
            threads.shutdown()
        return [done[number] for number in range(len(made))]

    def attach(self, ticket: str) -> Gateway:
        """The gateway that another process has detached, or that is to be taken from it; see Gateway.detach.

        Its `channels` are those that are open there, with all that the other process has not received.  Values that it
        received in the last moment before it was killed may come again; after detach() none do.  If it lives, it is
        told that the gateway was taken over.  Raises SpecError if *ticket* is none, AuthenticationFailed if its secret
        is wrong, and StartError if the worker is no more or is not reached.
        """
        return run(self._attach(ticket))

    def setlocalfactory(
        self,
        path: str | None = None,
        *,
        port: int | str | None = None,
        token: str | None = None,
        tls: str | None = None,
        preload: str | Iterable[str] | None = None,
        limit: int | None = None,
    ) -> None:
        """From now on a process that is ready starts the popen gateways of this group: it forks, in milliseconds.

        Without *path* and *port* the process is this group's own, until terminate(); *preload* names modules that it
        imports first, so that its workers have them, *limit* is how many workers it may have at a time.  *path* is the
        Unix socket of one that `execgw service` runs; *port*, a number on 127.0.0.1 or 'HOST:PORT', is that of one that
        serves whoever knows the *token* ('file:PATH' or 'env:NAME'); *tls* is as in a spec.  A spec with python=, nice=
        or factory=none starts a process of its own as before.  Raises StartError if the factory does not come to be.
        """
        self._hub.check_no_factory()
        if (preload or limit is not None) and (path is not None or port is not None):
            raise ValueError("preload and limit are options of the service: execgw service --preload --limit")
        self._hub.set_factory(_factory(path, port, token, tls, preload, limit))

    # -- using

    def remote_exec(self, source: object, **kwargs: Any) -> MultiChannel:
        """Run the same code on every gateway; see Gateway.remote_exec."""
        return MultiChannel([gateway.remote_exec(source, **kwargs) for gateway in self])

    def map(
        self,
        func: Callable[..., T],
        iterable: Iterable[Any],
        *,
        ordered: bool = True,
        progress: Callable[[int, int], object] | None = None,
        retries: int = 0,
        chunksize: int = 1,
    ) -> Iterator[T]:
        """The values of func(item) for each item, computed by the gateways; whoever is free takes the next one.

        Values come in the order of the items, or, not *ordered*, as they are ready.  *progress*(done, total) is called
        after each.  Items of a gateway that dies run again elsewhere, up to *retries* times each; then ConnectionLost.
        """
        calls = Dispatcher(self._gateways, retries)
        chunks = [list(chunk) for chunk in batched(iterable, chunksize)]
        total, done = sum(map(len, chunks)), 0
        pending = [calls.submit_many(func, [(item,) for item in chunk]) for chunk in chunks]
        try:
            for future in pending if ordered else as_completed(pending):
                for value in future.result():
                    done += 1
                    if progress is not None:
                        progress(done, total)
                    yield value
        finally:
            calls.shutdown(wait=False, cancel_futures=True)

    # -- looking

    def tree(self, timeout: float = ASK_SECONDS) -> Tree:
        """What all gateways are and do now, those reached through others below these; print() shows it.

        Each worker is asked, all at the same time; one without an answer after *timeout* seconds is shown as 'silent'.
        """
        return tree(self._gateways, timeout)

    def monitor(self, path: str | os.PathLike[str]) -> _monitor.Monitor:
        """Let `execgw tree --at PATH`, and top and stack, look at this group from outside, through a Unix socket there.

        Only this user and root can; they can look and do nothing else.  The socket goes with close(), at the end of a
        `with` statement around either of the two, or at the end of the process.  ExecgwError if it cannot be made.
        """
        self._monitors.append(_monitor.Monitor(path, lambda: [self._gateways]))
        return self._monitors[-1]

    # -- ending

    def terminate(self, timeout: float | None = None) -> dict[str, str]:
        """End all gateways, those reached through others (via=) first, and wait until their processes are gone.

        Each worker is asked; what is left after *timeout* seconds (default 10) gets SIGTERM and then SIGKILL, with
        its whole process group.  Returns what it took, by gateway id: 'asked', 'terminated' or 'killed'.
        """
        how = self._end(list(self._gateways), timeout)
        if self._pid == os.getpid():
            self._hub.end_factory()
        return how

    def _end(self, gateways: list[Gateway], timeout: float | None) -> dict[str, str]:
        return run(self._end_all(gateways, timeout))

    def _cleanup_atexit(self) -> None:
        if self._pid != os.getpid():
            return
        begun = clock()
        self.terminate(timeout=1.0)
        left = [session for session in self._leaving if not session.over.is_set()]
        run(self._hub.end(left, max(1.0 - (clock() - begun), 0)))

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.terminate()
        while self._monitors:
            self._monitors.pop().close()


def _factory(path: str | None, port: Any, token: str | None, tls: str | None, preload: Any, limit: Any) -> AnyFactory:
    from .transports.address import parse_address
    from .transports.factory import LOCAL, connect_factory, start_factory

    if port is not None:
        from .transports.factory_tcp import TcpFactory

        return TcpFactory(LOCAL, parse_address(f"127.0.0.1:{port}" if ":" not in str(port) else port), token, tls)
    return start_factory(LOCAL, preload, limit) if path is None else connect_factory(LOCAL, path)

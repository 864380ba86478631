"""The sync face: groups of gateways; making, finding, broadcasting, ending."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import as_completed
from typing import TYPE_CHECKING, Any, TypeVar

from ._dispatch import Dispatcher, batched
from ._hub import Hub
from .gateway import Gateway
from .multi import MultiChannel
from .peer.compat import clock
from .peer.execmodel import ExecModel
from .spec import XSpec

if TYPE_CHECKING:
    from ._session import Session
    from .transports.base import AnyFactory

T = TypeVar("T")


class Group:
    """Gateways that belong together.  A container of them, in the order in which they were made.

    `with Group() as group:` ends all gateways at the end.  *xspecs* are made at once; *execmodel* is 'thread' or
    'main_thread_only', see set_execmodel.
    """

    defaultspec = "popen"

    def __init__(self, xspecs: Iterable[XSpec | str | None] = (), execmodel: str = "thread") -> None:
        self._hub = Hub()
        self._gateways: list[Gateway] = []
        self._leaving: list[Session] = []  # asked to end by exit(), which does not wait
        self._execmodel = self._remote_execmodel = ExecModel(execmodel)
        self._pid = os.getpid()
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
        targets = {stream: target for stream, target in ((1, stdout), (2, stderr)) if target is not None}
        if targets:
            try:
                gateway._set_output(targets)
            except BaseException:
                self._end([gateway], 0)
                raise
        return gateway

    def makegateways(self, specs: Iterable[XSpec | str | None]) -> list[Gateway]:
        """Start many workers at the same time and return their gateways, in the order of *specs*.

        If one fails, its error is raised and none is left.
        """
        made = [self._as_spec(spec) for spec in specs]
        sessions = self._hub.start_all(made, self._remote_execmodel.backend)
        gateways = [
            Gateway(self, session, spec, str(spec.execmodel or self._execmodel.backend))
            for session, spec in zip(sessions, made, strict=True)
        ]
        self._gateways.extend(gateways)
        return gateways

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

    def _as_spec(self, spec: XSpec | str | None) -> XSpec:
        return spec if isinstance(spec, XSpec) else XSpec(spec or self.defaultspec)

    def allocate_id(self, spec: XSpec) -> None:
        """Give *spec* the id that its gateway will have, if it has none."""
        self._hub.allocate_id(spec)

    def set_execmodel(self, execmodel: str, remote_execmodel: str | None = None) -> None:
        """Set how workers run tasks: 'thread' (several at a time, the first in the main thread) or 'main_thread_only'.

        ValueError once the group has gateways.
        """
        if self._gateways:
            raise ValueError(f"cannot set the execmodel: the group has gateways already: {self._gateways}")
        remote = ExecModel(execmodel if remote_execmodel is None else remote_execmodel)
        self._execmodel, self._remote_execmodel = ExecModel(execmodel), remote

    @property
    def execmodel(self) -> ExecModel:
        """The model of this side."""
        return self._execmodel

    @property
    def remote_execmodel(self) -> ExecModel:
        """The model that workers get."""
        return self._remote_execmodel

    # -- finding

    def __getitem__(self, key: int | str | Gateway) -> Gateway:
        if isinstance(key, int):
            return self._gateways[key]
        for gateway in self._gateways:
            if gateway is key or gateway.id == key:
                return gateway
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return any(gateway is key or gateway.id == key for gateway in self._gateways)

    def __len__(self) -> int:
        return len(self._gateways)

    def __iter__(self) -> Iterator[Gateway]:
        return iter(list(self._gateways))

    def __repr__(self) -> str:
        return f"<Group {[gateway.id for gateway in self._gateways]!r}>"

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
        if self._pid != os.getpid():  # a forked child: the workers are its parent's
            return {}
        how = self._hub.end([gateway._session for gateway in gateways], timeout)
        self._gateways = [gateway for gateway in self._gateways if gateway not in gateways]
        return how

    def _leave(self, gateway: Gateway) -> None:
        if gateway in self._gateways:
            self._gateways.remove(gateway)
        self._hub.forget(gateway._session)
        self._leaving = [left for left in self._leaving if not left.over.is_set()]
        self._leaving.append(gateway._session)

    def _cleanup_atexit(self) -> None:
        if self._pid != os.getpid():
            return
        begun = clock()
        self.terminate(timeout=1.0)
        left = [session for session in self._leaving if not session.over.is_set()]
        self._hub.end(left, max(1.0 - (clock() - begun), 0))

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.terminate()


def _factory(path: str | None, port: Any, token: str | None, tls: str | None, preload: Any, limit: Any) -> AnyFactory:
    from .transports.address import parse_address
    from .transports.factory import LOCAL, connect_factory, start_factory

    if port is not None:
        from .transports.factory_tcp import TcpFactory

        return TcpFactory(LOCAL, parse_address(f"127.0.0.1:{port}" if ":" not in str(port) else port), token, tls)
    return start_factory(LOCAL, preload, limit) if path is None else connect_factory(LOCAL, path)

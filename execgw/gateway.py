"""The sync face: a gateway, on which code is run in the worker behind it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from . import _rooms, _source
from ._face import ASK_SECONDS, INFO, NearGateway, RemoteStatus, RInfo
from ._loop import run
from ._status import Status
from .channel import Channel
from .errors import ChannelClosed

if TYPE_CHECKING:
    from .group import Group

SCRIPT_BLOCK = "# /// script"

P = ParamSpec("P")
T = TypeVar("T")


class Gateway(NearGateway):
    """A live connection to a worker process.  Made by makegateway() and Group.makegateway().

    `with gateway:` ends the worker at the end, and waits for that.
    """

    _channel_class = Channel
    _group: Group

    # -- running code

    def remote_exec(self, source: object, **kwargs: Any) -> Channel:
        """Run code in the worker; return the channel that it knows as `channel`.

        *source* is source text, a module, or a function whose first argument is `channel`; *kwargs* are further
        arguments of the function.  The channel ends with the code; what the code raises is raised by receive() and
        waitclose() as RemoteError.  Unless the function has arguments of these names:
        *timeout*  seconds after which the code is ended with RemoteTimeout, a RemoteError that says where it was
        *stdout*, *stderr*  where what it prints goes: "inherit", "null", a function that gets each line, a file, or
        "channel": channel.stdout and channel.stderr then give the lines.  All of it has arrived when waitclose()
        returns.  What is printed while several tasks run at a time goes where the gateway's own output goes.
        A source text with a `# /// script` block (PEP 723) runs in a worker of its own beside this one, in a cached
        environment that has what the block asks for.
        Raises ValueError for a function that uses what is not sent with it, OSError if the gateway has ended.
        """
        if isinstance(source, str) and SCRIPT_BLOCK in source:
            channel: Channel = _rooms.feature("remote_exec_script")(self, source, kwargs)
            return channel
        return self._remote_exec(source, kwargs)

    def _remote_exec(self, source: object, kwargs: dict[str, Any]) -> Channel:
        channel: Channel = run(self._exec(source, kwargs))
        return channel

    def run_script(self, path: str | os.PathLike[str], *args: str, **options: Any) -> Channel:
        """Run a script file of this side in the worker, as `python path args...` would; return its channel.

        If it says what it needs in a `# /// script` block (PEP 723), it runs in a worker of its own, beside this one,
        in a cached environment with those requirements, and on an interpreter that its requires-python allows.
        The script may use `channel`.  The channel ends with it, and has what it raises, SystemExit with a code too.
        *timeout*, *stdout*, *stderr*  as of remote_exec
        *progress*  is called with each line about how the environment is made; more as of venv.create_venv_gateway
        Raises OSError if the file cannot be read, EnvironmentFailed if the environment cannot be made.
        """
        channel: Channel = _rooms.feature("run_script")(self, path, args, **options)
        return channel

    def _execute(self, task: _source.Task | str, options: dict[str, Any]) -> Channel:
        channel: Channel = run(self._exec_task(task, options))
        return channel

    def call(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call func(*args, **kwargs) in the worker and return its value.

        A function of the standard library (time.sleep) goes by its name, any other by its source.  Raises RemoteError
        if it raised there, DumpError for arguments that cannot travel, ConnectionLost if the worker dies.
        """
        channel = run(self._run(_source.call_task(func, args, kwargs)))
        value: T = channel.receive()
        return value

    def submit(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The same as call(), but at once: returns a concurrent.futures.Future of the value."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        channel = run(self._run(_source.call_task(func, args, kwargs)))

        def arrived(item: Any, error: Exception | None = None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            elif item is _ended:
                future.set_exception(ChannelClosed(f"{channel!r}: it ended without a value"))
            else:
                future.set_result(item)

        channel.setcallback(arrived, endmarker=_ended, pass_error=True)
        return future

    def newchannel(self) -> Channel:
        """A new channel, not bound to any code; both sides may use it once it was sent over another channel."""
        channel: Channel = super().newchannel()
        return channel

    def forward_logging(self, level: int | str = "INFO") -> None:
        """Let the worker's log records of *level* and above arrive in this side's logging, under execgw.remote.ID.

        They keep their level, file, line, time, thread and traceback.  What is below the level is not even sent.
        Asked again, it changes the level.
        """
        run(self._forward_logging(level))

    # -- steering

    def interrupt(self, timeout: float | None = ASK_SECONDS) -> dict[int, str]:
        """Raise KeyboardInterrupt in all code that runs in the worker; {channel id: outcome}, see Channel.interrupt."""
        return run(self._interrupt(timeout))

    def stacks(self, timeout: float | None = ASK_SECONDS) -> dict[str, str]:
        """The stack of each thread of the worker, as text, by what it does: 'channel 3:MainThread:1234'.

        Answered while the code computes, without its help.
        """
        return run(self._stacks(timeout))

    def status(self, timeout: float | None = ASK_SECONDS) -> Status:
        """What the worker is doing, in detail; it answers while its code computes."""
        return run(self._status(timeout))

    # -- asking

    def remote_status(self, timeout: float | None = None) -> RemoteStatus:
        """What the worker is doing; it answers while its code computes.  TimeoutError after *timeout* seconds."""
        return run(self._remote_status(timeout))

    def _rinfo(self, update: bool = False) -> RInfo:
        """Executable, version_info, platform, cwd and pid of the worker; asked once."""
        if update or self._info is None:
            with self.remote_exec(INFO) as channel:
                self._info = self._checked_info(channel.receive())
        return self._info

    def reconfigure(self, py2str_as_py3str: bool = True, py3str_as_py2str: bool = False) -> None:
        """Set what 8-bit strings of Python 2 and text of Python 3 become on the other side's kind of Python."""
        run(self._reconfigure(py2str_as_py3str, py3str_as_py2str))

    # -- ending

    def detach(self, timeout: float | None = 10.0) -> str:
        """Leave the worker to another process, or to a later one: returns the ticket that attach() takes.

        The worker goes on, for as long as resume= in the spec says, and what it sends waits.  What was not received
        here is received there; its channels are closed here.  The ticket is a secret.  Raises ExecgwError without
        resume=, or if other gateways are reached through this one, and TimeoutError if what was sent does not get
        there within *timeout* seconds.
        """
        return run(self._detach(timeout))

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the worker has ended; false if it has not after *timeout* seconds."""
        return run(self._session.ended_within(timeout))

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._group._end([self], None)


_ended = object()

"""The sync face: a gateway, on which code is run in the worker behind it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

from . import _logs, _rooms, _source
from ._output import Lines, Outputs
from ._status import Status, status_of
from .channel import ASK_SECONDS, Channel
from .errors import ChannelClosed, ClosedHere, ConnectionLost, LoadError, RemoteProtocolError, RemoteTimeout
from .peer.channel import number_of
from .peer.compat import clock
from .peer.execmodel import ExecModel
from .peer.faults import again
from .peer.gateway import BaseGateway
from .wire.mux import LAST_CHANNEL

if TYPE_CHECKING:
    from ._session import Session
    from .group import Group
    from .spec import XSpec
    from .wire.mux import Port

SCRIPT_BLOCK = "# /// script"
OPTIONS = ("timeout", "stdout", "stderr")  # of remote_exec, unless the function has an argument of that name
GRACE_SECONDS = 1.0  # for code that is over its time to end after each of the two exceptions

P = ParamSpec("P")
T = TypeVar("T")


class RInfo(NamedTuple):
    """Facts about a worker: see Gateway._rinfo."""

    executable: str
    version_info: tuple[Any, ...]
    platform: str
    cwd: str
    pid: int


class RemoteStatus(NamedTuple):
    """What a worker is doing: open channels, tasks that run, tasks that wait for the main thread."""

    numchannels: int
    numexecuting: int
    numqueued: int
    execmodel: str


class Gateway(BaseGateway):
    """A live connection to a worker process.  Made by makegateway() and Group.makegateway().

    `with gateway:` ends the worker at the end, and waits for that.
    """

    _channel_class = Channel
    spec: XSpec
    remoteaddress: str | None

    def __init__(self, group: Group, session: Session, spec: XSpec, execmodel: str) -> None:
        super().__init__(session.id)
        self.spec = spec
        self._group = group
        self._peer = self._session = session
        self._callbacks = session.loop.callbacks
        self.execmodel = ExecModel(execmodel)
        self._info: RInfo | None = None
        self._log: Channel | None = None
        self._outputs = Outputs(self)
        self.stdout: Lines | None = None
        self.stderr: Lines | None = None
        codec = session.codec
        codec.channel_type = Channel
        codec.number_of = number_of(session)
        codec.channel_for = self._channel_for
        if session.transport.remoteaddress is not None:
            self.remoteaddress = session.transport.remoteaddress

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
        options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs and not _source.takes(source, name)}
        return self._execute(_source.exec_task(source, kwargs), options)

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
        named = ((1, "stdout"), (2, "stderr"))
        targets = {stream: options[name] for stream, name in named if options.get(name) is not None}
        channel = self._run(task, targets)
        seconds = options.get("timeout")
        if seconds is not None:
            self._session.loop.later(seconds, _Limit(self._session, channel._port, seconds).over)
        return channel

    def call(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call func(*args, **kwargs) in the worker and return its value.

        A function of the standard library (time.sleep) goes by its name, any other by its source.  Raises RemoteError
        if it raised there, DumpError for arguments that cannot travel, ConnectionLost if the worker dies.
        """
        channel = self._run(_source.call_task(func, args, kwargs))
        value: T = channel.receive()
        return value

    def submit(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The same as call(), but at once: returns a concurrent.futures.Future of the value."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        channel = self._run(_source.call_task(func, args, kwargs))

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

    def _run(self, task: _source.Task | str, targets: dict[int, Any] | None = None) -> Channel:
        session = self._session
        form, data = session.codec.encode(task)
        channel: Channel = self.newchannel()
        if targets:
            lines, channel._output_done = self._outputs.set_task(channel.id, targets)
            channel.stdout, channel.stderr = lines.get(1), lines.get(2)
        session.send_task(channel._port, form, data)
        return channel

    def _channel_for(self, number: Any) -> Any:
        """For a value that arrived: a worker may write any number there, or no number at all."""
        mux = self._session.mux
        if type(number) is not int or not 0 < number <= LAST_CHANNEL or (number % 2 and number >= mux._next):
            raise LoadError("the value holds a channel that there never was")
        return super()._channel_for(number)

    def newchannel(self) -> Channel:
        """A new channel, not bound to any code; both sides may use it once it was sent over another channel."""
        if self._session.lost is not None:
            raise again(self._session.lost)
        channel: Channel = super().newchannel()
        return channel

    def _set_output(self, targets: dict[int, Any]) -> None:
        lines = self._outputs.set(targets)
        self.stdout, self.stderr = lines.get(1), lines.get(2)

    def forward_logging(self, level: int | str = "INFO") -> None:
        """Let the worker's log records of *level* and above arrive in this side's logging, under execgw.remote.ID.

        They keep their level, file, line, time, thread and traceback.  What is below the level is not even sent.
        Asked again, it changes the level.
        """
        number = _logs.level_number(level)
        if self._log is None:
            self._log = self.newchannel()
            self._log.setcallback(functools.partial(_logs.handle, self.id))
        self._session.ask("log", ASK_SECONDS, channels=str(self._log.id), level=str(number))

    # -- steering

    def interrupt(self, timeout: float | None = ASK_SECONDS) -> dict[int, str]:
        """Raise KeyboardInterrupt in all code that runs in the worker; {channel id: outcome}, see Channel.interrupt."""
        return {
            int(number): told for number, told in self._session.ask("interrupt", timeout).items() if number.isdigit()
        }

    def stacks(self, timeout: float | None = ASK_SECONDS) -> dict[str, str]:
        """The stack of each thread of the worker, as text, by what it does: 'channel 3:MainThread:1234'.

        Answered while the code computes, without its help.
        """
        return {name: text for name, text in self._session.ask("stacks", timeout).items() if name != "number"}

    def status(self, timeout: float | None = ASK_SECONDS) -> Status:
        """What the worker is doing, in detail; it answers while its code computes."""
        begun = clock()
        told = self._session.ask("report", timeout)
        return status_of(told, clock() - begun)

    # -- asking

    def remote_status(self, timeout: float | None = None) -> RemoteStatus:
        """What the worker is doing; it answers while its code computes.  TimeoutError after *timeout* seconds."""
        told = self._session.ask("status", timeout)
        try:
            channels, executing, queued = [int(told[name]) for name in RemoteStatus._fields[:3]]
            return RemoteStatus(channels, executing, queued, told["execmodel"])
        except (KeyError, ValueError):
            raise RemoteProtocolError(f"gateway {self.id!r}: no status is {str(told)[:300]}") from None

    def _rinfo(self, update: bool = False) -> RInfo:
        """Executable, version_info, platform, cwd and pid of the worker; asked once."""
        if update or self._info is None:
            with self.remote_exec(_RINFO) as channel:
                self._info = self._checked_info(channel.receive())
        return self._info

    def _checked_info(self, told: Any) -> RInfo:
        right = type(told) is tuple and len(told) == 5 and type(told[1]) is tuple
        if right:
            info = RInfo(*told)
            texts = [info.executable or "", info.platform, info.cwd]
            right = all(type(text) is str for text in texts) and _is_small(info.pid)
            right = right and all(type(part) is str or _is_small(part) for part in info.version_info)
        if not right:
            raise RemoteProtocolError(f"gateway {self.id!r}: the worker's facts about itself make no sense")
        return info

    def hasreceiver(self) -> bool:
        """Whether the connection is alive."""
        return self._session.lost is None

    def reconfigure(self, py2str_as_py3str: bool = True, py3str_as_py2str: bool = False) -> None:
        """Set what 8-bit strings of Python 2 and text of Python 3 become on the other side's kind of Python."""
        codec = self._session.codec
        codec.py2str_as_py3str = py2str_as_py3str
        codec.py3str_as_py2str = py3str_as_py2str
        self._session.ask(f"reconfigure {int(py2str_as_py3str)} {int(py3str_as_py2str)}")

    def remote_init_threads(self, num: int | None = None) -> None:
        """Does nothing: workers start threads as they need them."""

    # -- ending

    def exit(self) -> None:
        """Ask the worker to end, and leave the group.  Returns at once; see join()."""
        self._group._leave(self)
        self._session.goodbye()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the worker has ended; false if it has not after *timeout* seconds."""
        return self._session.wait_over(timeout)

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._group._end([self], None)

    def __repr__(self) -> str:
        lost = self._session.lost
        if lost is None:
            state = f"receive-live, {self.execmodel.backend} model, {len(self._session.mux.ports)} active channels"
        elif isinstance(lost, ClosedHere):
            state = "ended"
        else:
            state = f"not-receiving, {'lost' if isinstance(lost, ConnectionLost) else lost}"
        return f"<{type(self).__name__} id={self.id!r} {state}>"


def _is_small(number: Any) -> bool:
    return isinstance(number, int) and 0 <= number < 1 << 32


class _Limit:
    """Ends the code of one channel when its time is over."""

    def __init__(self, session: Session, port: Port, seconds: float) -> None:
        self.session, self.port, self.seconds = session, port, seconds
        self.text = f"the code ran longer than {seconds:g} s"

    def over(self) -> None:
        """In the loop: interrupt it."""
        if not self.port.ended:
            self._steer("timeout")
            self.session.loop.later(GRACE_SECONDS, self.insist)

    def insist(self) -> None:
        """It has caught that, or does not look."""
        if not self.port.ended:
            self._steer("exit")
            self.session.loop.later(GRACE_SECONDS, self.give_up)

    def give_up(self) -> None:
        """Whoever waits is told; the code may run on."""
        self.session.end_channel(
            self.port, RemoteTimeout(f"{self.text}, and does not end; Channel.cancel(kill=True) would")
        )

    def _steer(self, verb: str) -> None:
        self.session.tell(verb, channels=str(self.port.number), text=self.text)


_ended = object()
_RINFO = """
import sys, os
channel.send((sys.executable, tuple(sys.version_info), str(sys.platform), os.getcwd(), os.getpid()))
"""

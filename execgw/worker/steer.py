"""What the near side asks of running code: interrupt it, say where it is.  Sent to a worker when it is first asked.

An exception may appear in user code, and where a thread waits for its turn to read (peer/turn.py), but never in the
middle of our own code: a frame that is half written, a credit that is counted once.  So
    a thread that waits      finds the exception in turn.thrown, and is woken
    the main thread          gets SIGINT; a handler that finds itself inside of our code does nothing, and we try again
    another thread           gets an asynchronous exception while it is seen in user code (CPython only)
"""

import os
import signal
import sys
import time
import traceback

from ..peer.compat import PY2, allocate_lock, clock, get_ident
from ..peer.callbacks import Callback
from ..peer.tracebacks import remember
from ..peer.turn import Turn
from .execute import Task, _execute, _sources

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

INTERRUPTED = "interrupted"  # the exception was raised there
PENDING = "pending"  # it will be, when a C function that does not look returns
ENDED = "ended"  # no code runs on that channel
IMPOSSIBLE = "impossible"  # this interpreter cannot

PATIENCE = 0.5  # seconds until it is called pending
STEP = 0.001

_here = os.path.dirname(os.path.abspath(__file__)) if os.path.isabs(__file__) else os.path.dirname(__file__)
_root = os.path.dirname(_here)
OWN = tuple([_root + "/" + room + "/" for room in ("wire", "peer", "worker")])
TASKS = _here + "/tasks/"
CALL_USER_CODE = [_execute.__code__] + [
    part.__dict__[name].__code__ for part, name in ((Task, "_run"), (Callback, "calls"), (Callback, "_end"))
]
BUSY_WITH_US = [Task.__dict__["_error"].__code__]  # it waits, for a module say, while it tells how the code ended
WAITS = [Turn.__dict__[name].__code__ for name in ("_wait_outside", "_park")]


class RemoteTimeout(KeyboardInterrupt):
    """The code ran longer than its near side allowed."""

    __module__ = "execgw"


ERRORS = {"interrupt": KeyboardInterrupt, "exit": SystemExit, "timeout": RemoteTimeout}


def _is_own(code):
    # type: (Any) -> bool
    name = code.co_filename
    return name.startswith(OWN) and not name.startswith(TASKS)


def in_user_code(frame):
    # type: (Any) -> bool
    """Whether an exception may appear in this frame: between it and the task that it belongs to is nothing of ours."""
    inner = frame
    while frame is not None:
        if _is_own(frame.f_code):
            return frame is not inner and frame.f_code in CALL_USER_CODE
        frame = frame.f_back
    return False


def waits(frame):
    # type: (Any) -> bool
    """Whether a thread waits, in user code, for its turn to read or to be woken."""
    codes = []
    while frame is not None:
        codes.append(frame.f_code)
        frame = frame.f_back
    return any([code in WAITS for code in codes[:5]]) and not any(
        [code in BUSY_WITH_US or code.co_name == "fetch_module" for code in codes]
    )


def answer(server, asked):
    # type: (Any, Dict[str, str]) -> Dict[str, str]
    """The answer to a question of the near side; called in a thread of the pool."""
    try:
        with _making:
            if server.steer is None:
                server.steer = Steering(server)
        return server.steer.answer(asked)  # type: ignore[no-any-return]
    except Exception as e:
        return {"problem": "%s: %s" % (type(e).__name__, e)}


_making = allocate_lock()


class Steering(object):
    """Answers of one worker; each is made in a thread of the pool."""

    def __init__(self, server):
        # type: (Any) -> None
        self.server = server
        self.running = server.gateway.running
        self.turn = server.peer.turn
        self.one_at_a_time = allocate_lock()
        self.target = None  # type: Optional[Tuple[int, BaseException]]  # what SIGINT means to the main thread
        self.put_off = False  # it came in the middle of our own code
        self.sent = False  # a signal of ours is on its way
        self.trapped = False  # see _set_trap

    def answer(self, asked):
        # type: (Dict[str, str]) -> Dict[str, str]
        verb = asked["verb"]
        if verb in ERRORS:
            return self.interrupt_all(asked)
        if verb == "report":
            return self.report()
        if verb == "stacks":
            return self.stacks()
        if verb == "capture":
            from .output import capture

            return capture(self.server, asked)
        if verb == "log":
            from .logs import forward

            return forward(self.server, asked)
        return {"problem": "this worker knows no %r" % (verb,)}

    # -- interrupting

    def interrupt_all(self, asked):
        # type: (Dict[str, str]) -> Dict[str, str]
        """{channel number: outcome} for the channels that are named, or all that run code."""
        named = asked.get("channels", "")
        error = ERRORS[asked["verb"]]
        told = {}
        for number in [int(word) for word in named.split()] if named else sorted(self.running):
            with self.one_at_a_time:
                told[str(number)] = self.interrupt(number, error(*([asked["text"]] if asked.get("text") else [])))
        return told

    def interrupt(self, number, error):
        # type: (int, BaseException) -> str
        """Raise *error* in the code of one channel, and say what came of it."""
        thread = self.running.get(number)
        if thread is None:
            return ENDED
        self.target, self.trapped = None, False
        is_main = self._is_main(thread)
        signalled = False
        last = PENDING
        begun = clock()
        try:
            while clock() < begun + PATIENCE:
                if thread == 0:  # it has not begun
                    time.sleep(STEP)
                    thread = self.running.get(number)
                    is_main = self._is_main(thread)
                    continue
                if thread is None or self.running.get(number) != thread:
                    return INTERRUPTED if signalled or self.trapped else ENDED
                if (signalled and self.target is None) or (self.trapped and thread not in self.turn.thrown):
                    return INTERRUPTED
                # Python 2 looks for signals only now and then: what a signal woke may by then have left user code.
                if not self.trapped and ((PY2 and is_main) or clock() > begun + PATIENCE / 4):
                    self._set_trap(thread, error)
                if waits(sys._current_frames().get(thread)):
                    outcome = self._throw(thread, error)
                elif is_main:
                    signalled = True
                    outcome = self._signal_main(thread, number, error)
                else:
                    outcome = self._raise_in(thread, number, error)
                if outcome == IMPOSSIBLE:  # but it may still wait for a channel, or use one
                    last = outcome
                elif outcome:
                    return outcome
                time.sleep(STEP)
            return last
        finally:
            self.turn.thrown.pop(thread, None)
            self.server.peer.__dict__.pop("send", None)
            self.server.peer.__dict__.pop("close", None)

    def _is_main(self, thread):
        # type: (Optional[int]) -> bool
        """Whether a signal gets there.  Jython's signal handlers run in a thread of their own."""
        return thread == self.server.main and self.server.owns_process and not sys.platform.startswith("java")

    def _set_trap(self, thread, error):
        # type: (int, BaseException) -> None
        """For code that is never seen outside of ours, for it uses channels without pause: raise it as it uses one."""
        peer = self.server.peer
        self.turn.thrown[thread] = error
        self.trapped = True

        def trapped(method):
            # type: (Any) -> Any
            def method_or_error(*args):
                # type: (Any) -> Any
                if get_ident() in self.turn.thrown:
                    self.target = None  # the signal, if it comes yet, is not to raise it once more
                    self.turn._throw()
                return method(*args)

            return method_or_error

        peer.send, peer.close = trapped(peer.send), trapped(peer.close)

    def _throw(self, thread, error):
        # type: (int, BaseException) -> Optional[str]
        """A thread that waits finds it when it wakes."""
        thrown = self.turn.thrown
        with self.server.peer.lock:
            thrown[thread] = error
            self.turn.all_changed()
        for _ in range(20):
            if thread not in thrown:
                break
            time.sleep(STEP)
        if self.trapped and thread in thrown:
            return None
        if thrown.pop(thread, None) is not None:
            return None
        self.target = None
        return INTERRUPTED

    def _signal_main(self, thread, number, error):
        # type: (int, int, BaseException) -> Optional[str]
        if self.target is None or self.put_off or self.target[1] is not error:
            self.target, self.put_off, self.sent = (number, error), False, True
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(thread, signal.SIGINT)  # this very thread, so that what it sleeps in ends
            else:
                os.kill(os.getpid(), signal.SIGINT)
        for _ in range(5):
            if self.target is None:
                return INTERRUPTED
            if self.put_off:
                return None
            time.sleep(STEP / 5)
        if (
            getattr(signal.getsignal(signal.SIGINT), "__self__", None) is not self.server
        ):  # the code has one of its own, asyncio's say
            self.target = None
            return INTERRUPTED
        return None

    def on_sigint(self, frame):
        # type: (Any) -> None
        """In the main thread, anywhere."""
        target, sent, self.sent = self.target, self.sent, False
        if target is None:
            if sent:  # what it was for has come another way
                return
            raise KeyboardInterrupt  # from somebody else
        number, error = target
        if self.running.get(number) != self.server.main:
            self.target = None
        elif in_user_code(frame):
            self.target = None
            self.turn.thrown.pop(self.server.main, None)  # the trap, see _set_trap
            raise error
        else:
            self.put_off = True

    def _raise_in(self, thread, number, error):
        # type: (int, int, BaseException) -> Optional[str]
        """An asynchronous exception.  It appears in the frame that is looked at, or where that one calls the next."""
        try:
            from ctypes import c_long, c_ulong, py_object, pythonapi

            set_error = pythonapi.PyThreadState_SetAsyncExc
        except (ImportError, AttributeError):
            return IMPOSSIBLE
        ident = (c_long if sys.version_info < (3, 7) else c_ulong)(thread)
        # Nothing may run between looking and setting.  A thread that has just got the interpreter keeps it for a whole
        # switch interval; Python 2 counts its instructions instead.
        interval = sys.getcheckinterval() if PY2 else 0  # type: ignore[attr-defined]
        try:
            if PY2:
                sys.setcheckinterval(1 << 30)  # type: ignore[attr-defined]
                for _ in range(interval * 2):
                    pass
            else:
                time.sleep(0)
            frame = sys._current_frames().get(thread)
            if not in_user_code(frame) or self.running.get(number) != thread:
                return None
            kind, made = _marked(error)
            set_error(ident, py_object(kind))
        finally:
            if PY2:
                sys.setcheckinterval(interval)  # type: ignore[attr-defined]
        end = clock() + PATIENCE
        while clock() < end:
            if made or self.running.get(number) != thread:
                return INTERRUPTED
            time.sleep(STEP)
        return PENDING

    # -- telling

    def report(self):
        # type: () -> Dict[str, str]
        """Where each task is, and what the worker holds."""
        server, frames, mux = self.server, sys._current_frames(), self.server.peer.mux
        told = dict(server._status(), host=_host(), memory=str(_resident()), cpu=repr(sum(os.times()[:2])))
        for number, thread in list(self.running.items()):
            told["task:%d" % number] = _line(frames.get(thread))
        with server.peer.lock:
            for port in list(mux.ports.values()):
                told["channel:%d" % port.number] = "%d %d" % (len(port.items), port.allowed - port.sent)
        return told

    def stacks(self):
        # type: () -> Dict[str, str]
        """The stack of every thread, as text."""
        tasks = dict([(thread, number) for number, thread in list(self.running.items())])
        names = {}
        if "threading" in sys.modules:
            names = dict([(thread.ident, thread.name) for thread in sys.modules["threading"].enumerate()])
        remember(_sources)
        told = {}
        for thread, frame in list(sys._current_frames().items()):
            title = "channel %d" % tasks[thread] if thread in tasks else "own"
            text = "".join(traceback.format_stack(frame))
            told["%s:%s:%d" % (title, names.get(thread, "thread"), thread)] = text[-20000:]
        return told


def _line(frame):
    # type: (Any) -> str
    """file:line:function of the innermost frame that is not ours."""
    found = frame
    while frame is not None and _is_own(frame.f_code):
        frame = frame.f_back
    found = frame or found
    if found is None:
        return "?:0:?"
    return "%s:%d:%s" % (found.f_code.co_filename, found.f_lineno, found.f_code.co_name)


def _host():
    # type: () -> str
    return str(os.uname()[1]) if hasattr(os, "uname") else ""


def _resident():
    # type: () -> int
    """Bytes of memory that this process has in use, or 0 where that is not to be known."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (EnvironmentError, ValueError, AttributeError, IndexError):
        return 0


def _marked(error):
    # type: (BaseException) -> Tuple[Any, List[Any]]
    """A class that raises as *error*, for an asynchronous exception is given as one, and a list of those raised."""
    base = type(error)
    made = []  # type: List[Any]

    def __init__(self, *args):
        # type: (Any, *Any) -> None
        base.__init__(self, *error.args)
        made.append(True)

    return type(base.__name__, (base,), {"__module__": base.__module__, "__init__": __init__}), made

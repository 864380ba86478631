"""A worker's life: say hello, run tasks, answer the near side's questions, end with it.

main thread      runs tasks; while there is none it waits for one, and so reads the link (peer/turn.py)
standby thread   keeper.py: reads while the main thread computes; never runs user code
further threads  tasks beyond the first at the same time (execmodel thread), callbacks
"""

import os
import sys
import time

from ..peer.channel import Channel, number_of
from ..peer.compat import PY2, deque, get_ident, start_new_thread
from ..peer.faults import again
from ..peer.gateway import BaseGateway
from ..peer.peer import Peer
from ..peer.pool import Pool
from ..wire import frames as f
from ..wire.codec import PROTOCOL, Codec
from ..wire.errors import ClosedHere, ConnectionLost, GatewayClosed
from ..wire.mux import Mux, Port
from .execute import DEADLOCK_TEXT, Task
from .keeper import Keeper
from .link import open_link

# The module above _signal would cost a start two milliseconds.
signal = __import__("signal" if PY2 else "_signal")

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Callable, Deque, Dict, List  # noqa: F401

SWITCH_SECONDS = 0.0005  # how long a computing thread may hold up the standby thread
LAST_SECONDS = 0.5  # for user code to end after its near side has gone: until it is interrupted, and again
QUEUE_SECONDS = 1.0  # a second task waits this long in main_thread_only


def _start_thread(function):
    # type: (Callable[[], None]) -> None
    """A daemon thread that the threading module knows, for it runs user code."""
    # Another thread may be importing it just now, and what is half there has no Thread: __import__ waits for that.  Not
    # under Python 2, where it waits for any import, and one may be waiting for us to read (fetch_module); a worker of
    # that has had it from the start.
    # Told that it is a daemon, Thread does not look at the thread that makes it, which threading would then list, too.
    thread = (sys.modules["threading"] if PY2 else __import__("threading")).Thread(
        target=function, **({} if PY2 else {"daemon": True})
    )
    thread.daemon = True
    thread.start()


class WorkerGateway(BaseGateway):
    """The far end of a gateway, as code that runs here sees it: channel.gateway."""

    def __init__(self, id, execmodel):
        # type: (str, str) -> None
        BaseGateway.__init__(self, id)
        self.backend = execmodel
        self.at_end = []  # type: List[Callable[[int], None]]  # what is to be sent before a task's channel ends
        self.output = self.log = None  # type: Any  # see output.py, logs.py
        # channel number -> thread of its task, 0 if that has not begun; grows and shrinks under the peer's lock
        self.running = {}  # type: Dict[int, int]
        self.owns_process = True
        self._made = {}  # type: Dict[str, Any]

    @property
    def execmodel(self):
        # type: () -> Any
        """How tasks run here; see peer/execmodel.py, which is not in the bundle."""
        from ..peer.execmodel import ExecModel

        return self._made.setdefault("execmodel", ExecModel(self.backend))

    def __repr__(self):
        # type: () -> str
        return "<WorkerGateway id=%r>" % (self.id,)


class Server(object):
    """One worker process."""

    def __init__(self, link, owns_process=True):
        # type: (Any, bool) -> None
        self.link = link
        self.owns_process = owns_process  # False: a worker in a thread, for tests; it must not end the process
        self.main = get_ident()
        self.gateway = WorkerGateway("worker", "thread")
        self.gateway.owns_process = owns_process
        codec = Codec(PROTOCOL, True, Channel, None, self.gateway._channel_for)
        self.keeper = Keeper()
        self.peer = Peer(link, self.keeper, Mux(first=2), codec)
        codec.number_of = number_of(self.peer)
        self.peer.patience = 3.0  # longer than the near side's: there the error is of most use
        self.keeper.peer = self.gateway._peer = self.peer
        self.keeper.link = link
        self.gateway._callbacks = Pool(self._start_known_thread)
        self.peer.on_task = self._on_task
        self.peer.on_heard = self._on_heard
        self.peer.on_link_end = self._on_link_end
        self.tasks = deque()  # type: Deque[Task]
        self.main_port = Port(0)  # what the main thread waits on
        self.orphaned = False
        self.options = {}  # type: Dict[str, str]
        self.steer = None  # type: Any  # see steer.py
        self.answers = {}  # type: Dict[str, Dict[str, str]]

    def _on_sigint(self, number, frame):
        # type: (int, Any) -> None
        if not self.steer:
            raise KeyboardInterrupt
        self.steer.on_sigint(frame)

    # -- under the peer's lock, in whichever thread reads

    def _on_task(self, port, form, data):
        # type: (Port, int, Any) -> None
        task = Task(self.gateway, port, form, data)
        if not self._main_is_busy():
            self._give_main(task)
        elif self.gateway.backend == "thread":
            self.gateway.running[port.number] = 0
            self.gateway._callbacks.submit(task.run)
        else:
            self._give_main(task)
            self.gateway._callbacks.submit(lambda: self._refuse_late(task))

    def _main_is_busy(self):
        # type: () -> bool
        # A task is out of `running` before its end is told: what the near side sends next finds the main thread free.
        return bool(self.tasks) or self.main in self.gateway.running.values()

    def _give_main(self, task):
        # type: (Task) -> None
        self.tasks.append(task)
        for waiter in self.main_port.waiters:
            waiter.wake()

    def _start_known_thread(self, function):
        # type: (Callable[[], None]) -> None
        if "threading" not in sys.modules:
            from .late_threading import import_threading

            import_threading(self.main)
        _start_thread(function)

    def _on_heard(self, kind, payload):
        # type: (int, bytes) -> None
        if kind == f.HELLO:
            self.options = f.unpack_pairs(payload)
            self.peer.mux.window = int(self.options["window"])
            self.link.chunk = int(self.options["chunk"])
            for waiter in self.main_port.waiters:
                waiter.wake()
        elif kind == f.BYE:
            self._stop(ClosedHere("the near side ended this gateway"), orphaned=False)
        elif kind == f.ASK:
            asked = f.unpack_pairs(payload)
            verb = asked["verb"]
            if verb == "status":
                self._tell(asked, self._status())
            elif verb[:11] == "reconfigure":  # py2str_as_py3str is of no use here: the near side is no Python 2
                self.peer.codec.py3str_as_py2str = verb[-1] == "1"
                self._tell(asked, {})
            else:
                self.gateway._callbacks.submit(lambda: self._steer(asked))
        elif kind == f.TELL:
            told = f.unpack_pairs(payload)
            self.answers[told["number"]] = told
            for waiter in self.main_port.waiters:
                waiter.wake()

    def _tell(self, asked, answer):
        # type: (Dict[str, str], Dict[str, str]) -> None
        self.peer._queue(f.TELL, 0, f.pack_pairs(dict(answer, number=asked["number"])))

    def _steer(self, asked):
        # type: (Dict[str, str]) -> None
        """In a thread of the pool: answer what takes more code than the bundle has room for."""
        try:
            from .steer import answer
        except GatewayClosed:  # we were ended while it was on its way: nobody waits for the answer
            return
        self._tell(asked, answer(self, asked))
        self.peer.flush()

    def _status(self):
        # type: () -> Dict[str, str]
        return {
            "numchannels": str(len(self.peer.mux.ports)),
            "numexecuting": str(len(self.gateway.running)),
            "numqueued": str(len(self.tasks)),
            "execmodel": self.gateway.backend,
        }

    def fetch_module(self, name):
        # type: (str) -> str
        """The source of a module of ours that was not in the bundle."""
        # Its name is the question's number.  The near side tells unasked what is surely needed.
        if name not in self.answers:
            self.peer.control(f.ASK, 0, f.pack_pairs({"number": name, "verb": "module"}))
            self.peer.wait_until(lambda port: name in self.answers or self.peer.lost, self.main_port)
        if name not in self.answers:
            raise again(self.peer.lost)
        told = self.answers.pop(name)
        if "source" not in told:
            raise ImportError("%s: %s" % (name, told.get("problem")))
        return told["source"]

    def _on_link_end(self, reason):
        # type: (Any) -> None
        self._stop(ConnectionLost("the near side has gone: %s" % (reason or "end of file")), orphaned=True)

    def _stop(self, reason, orphaned):
        # type: (Exception, bool) -> None
        """End: what runs gets EOFError from its channels, then KeyboardInterrupt, then the process goes."""
        if self.keeper.stopped:
            return
        self.keeper.stopped = True
        self.orphaned = orphaned
        # lose() takes the lock that we hold, and user code may be anywhere: in a thread of its own.
        start_new_thread(self._end, (reason,))

    def _end(self, reason):
        # type: (Exception) -> None
        self.peer.lose(reason)
        with self.peer.lock:
            self.peer.turn.all_changed()
        if not self.owns_process:
            return
        time.sleep(LAST_SECONDS)
        with self.peer.lock:
            busy = self._main_is_busy()
        if busy:
            os.kill(os.getpid(), 2)  # SIGINT
        # Whoever sent BYE waits for us, and has a kill ladder; what that ends may be no more than the link.
        while not self.orphaned and self.link.read() != b"":
            self.link.wait(None)
        time.sleep(LAST_SECONDS)
        self._kill_group()

    def _kill_group(self):
        # type: () -> None
        """Take everything that this worker has started along.  Only if the near side made a group for that, which we
        lead or, with sudo say between us, the process whose number it told."""
        group = self.options.get("group")
        if group and os.getpgrp() in (os.getpid(), int(group)):
            os.kill(0, 9)  # SIGKILL everywhere; Jython has no killpg
        os._exit(1)

    def _refuse_late(self, task):
        # type: (Task) -> None
        time.sleep(QUEUE_SECONDS)
        with self.peer.lock:
            if task not in self.tasks:
                return
            self.tasks.remove(task)
        task.refuse(DEADLOCK_TEXT)

    # -- tasks

    def say_hello(self):
        # type: () -> None
        """Answer the near side's HELLO with our own, after doing what it asked for."""
        self.peer.wait_until(lambda port: self.options or self.peer.lost, self.main_port)
        problem = ""
        try:
            self._apply(self.options)
        except Exception as e:
            problem = "%s: %s" % (type(e).__name__, e)
        about = {
            "version": str(f.VERSION),
            "protocol": str(PROTOCOL),
            "python": ".".join([str(part) for part in sys.version_info[:3]]),
            "executable": sys.executable or "",
            "platform": str(sys.platform),
            "pid": str(os.getpid()),
            "problem": problem,
        }
        with self.peer.send_lock:
            self.peer.out.append(f.MARKER + self.peer.mux.hello(f.pack_pairs(about)))
        self.peer.flush()

    def _apply(self, options):
        # type: (Dict[str, str]) -> None
        if int(options["version"]) != f.VERSION:
            raise ValueError("the near side speaks version %s, this worker %d" % (options["version"], f.VERSION))
        self.gateway.id = options["id"]
        self.gateway.backend = options["execmodel"]
        for name in options:
            if name.startswith("env:"):
                os.environ[name[4:]] = options[name]
        if options.get("nice") and hasattr(os, "nice"):
            os.nice(int(options["nice"]))
        if options.get("chdir"):
            if not os.path.isdir(options["chdir"]):
                os.makedirs(options["chdir"])
            os.chdir(options["chdir"])

    def serve(self):
        # type: () -> None
        """Run tasks in this, the main thread, until the near side ends the gateway."""
        start_new_thread(self.keeper.run, ())
        if self.owns_process and sys.platform[:4] != "java":  # where link_jython.py has one of its own
            signal.signal(2, self._on_sigint)
        self.say_hello()
        if "keepalive" in self.options:
            from ..peer.alive import watch

            watch(self)
        # Not before the thread of _end has begun: finalizing, Python 3.11 crashes over one that has not.
        while not self.peer.lost:
            try:
                self._serve_one()
            except KeyboardInterrupt:  # between tasks: it was meant for one that has just ended
                pass
        if (self.orphaned or PY2) and self.owns_process:
            import atexit

            if PY2 and "threading" in sys.modules and not self.orphaned:
                sys.modules["threading"]._shutdown()  # waits for the user's own threads
            getattr(atexit, "_run_exitfuncs", lambda: None)()
            if self.orphaned:
                self._kill_group()
            os._exit(0)  # finalizing, Python 2 empties the modules of threads that still run

    def _serve_one(self):
        # type: () -> None
        self.peer.wait_until(lambda port: self.tasks or self.peer.lost, self.main_port)
        with self.peer.lock:
            if not self.tasks:
                return
            task = self.tasks.popleft()
            self.gateway.running[task.port.number] = self.main
        task.run()


def main(shipped, readable, writable):
    # type: (Any, int, int) -> None
    """Serve on two file descriptors, which may be the same; *shipped* finds our modules."""
    link = open_link(readable, writable)
    if hasattr(sys, "setswitchinterval"):
        sys.setswitchinterval(SWITCH_SECONDS)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: os.close(link.readable))
    server = Server(link)
    if shipped.root.startswith("<"):
        # A start through a bundle is not so fast that this would show, and then late_threading need not be shipped.
        import threading  # noqa: F401
    shipped.fetch = server.fetch_module
    server.serve()

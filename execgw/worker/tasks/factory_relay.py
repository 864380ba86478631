"""factory=ID: asks the fork server beside this worker for a new one, and carries its bytes over the channel, both ways.

The channel is that of relay.py, which comes along as text, and takes one thing more: ('renew', seconds or None).  The
fork server (factory.py) is started by the first that asks.  Without one, workers are spawned and watched from here.
"""

import array
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types

PIECE = 64 * 1024
START_SECONDS = 30.0
ACTIVE_PART = 4.0  # of its idle time, between two signs that a worker is not idle
TICK = 0.1  # seconds between looks at the deadlines of one that was spawned
TERM_SECONDS = 0.5  # between SIGTERM and SIGKILL for one whose time is over
PIDFD_SIGNAL_PROCESS_GROUP = 4  # of Linux 6.9
KILL = getattr(signal, "SIGKILL", 9)

clock = getattr(time, "monotonic", time.time)


def _execute(code, namespace):
    # Alone in its function: Python 2 refuses exec beside a closure.
    exec(code, namespace)


def _registry():
    """What the workers of this process share."""
    fresh = types.ModuleType("_execgw_factory")
    fresh.lock = threading.Lock()
    fresh.server = None
    fresh.spawned = 0
    return sys.modules.setdefault("_execgw_factory", fresh)


class Refused(Exception):
    """There will be no worker, and why."""


class Forked(object):
    """A worker of the fork server; what relay.py needs of a subprocess.Popen."""

    def __init__(self, server, number, link, stderr):
        self.server = server
        self.number = number
        self.link = link
        if link is not None:
            self.stdin = _End(link.fileno(), self.end_input)
            self.stdout = _End(link.fileno(), link.close)
        self.stderr = os.fdopen(stderr, "rb", 0)
        self.returncode = None
        self.why = ""
        self.pid = self.pidfd = None
        self.watched = False  # it has a deadline
        self.answered = threading.Event()
        self.ended = threading.Event()
        self.refusal = None

    def end_input(self):
        try:
            self.link.shutdown(socket.SHUT_WR)
        except EnvironmentError:
            pass

    def wait(self):
        self.ended.wait()
        return self.returncode

    def tell(self, **message):
        self.server.send(dict(message, n=self.number), ())

    def signal(self, number):
        if not self.server.over:
            self.tell(do="signal", number=number)
            return
        # Nobody else is left who could; it is no child of ours, so only a pidfd is surely not another's.
        try:
            if self.pidfd is None:
                os.killpg(self.pid, number)
            else:
                try:
                    signal.pidfd_send_signal(self.pidfd, number, None, PIDFD_SIGNAL_PROCESS_GROUP)
                except EnvironmentError:
                    signal.pidfd_send_signal(self.pidfd, number)
        except EnvironmentError:
            pass

    def close(self):
        if self.pidfd is not None:
            os.close(self.pidfd)


class _End(object):
    def __init__(self, number, close):
        self.number = number
        self.close = close

    def fileno(self):
        return self.number


class ForkServer(object):
    """The link to the fork server; a thread reads it."""

    def __init__(self, program, boot, config):
        self.lock = threading.Lock()
        self.sock, theirs = socket.socketpair()
        self.workers = {}
        self.last = 0
        self.problem = ""
        self.over = False
        self.ready = threading.Event()
        null = open(os.devnull, "wb")
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program], stdin=theirs, stdout=null, close_fds=True, start_new_session=True
            )
        finally:
            null.close()
            theirs.close()
        reader = threading.Thread(target=self._read)
        reader.daemon = True
        reader.start()
        self.sock.sendall(boot)
        self.send(config, ())

    def send(self, message, descriptors):
        packed = array.array("i", descriptors)
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)] if descriptors else []
        data = json.dumps(message).encode("ascii") + b"\n"
        with self.lock:
            try:
                done = self.sock.sendmsg([data], extra)
                self.sock.sendall(data[done:])
            except EnvironmentError:  # it has ended, which the reader notices
                pass

    def start(self, lease, idle, link=None):
        """(a new worker, why there is none).  The caller's classes are others: each task has a namespace of its own.

        *link* is the descriptor of the worker's link, if that is not to lead here.
        """
        if not self.ready.wait(START_SECONDS):
            return None, "its fork server is not ready after %d s" % START_SECONDS
        if self.problem:
            return None, self.problem
        ours, theirs = (None, None) if link is not None else socket.socketpair()
        err, their_err = os.pipe()
        try:
            with self.lock:
                self.last += 1
                worker = Forked(self, self.last, ours, err)
                worker.watched = lease is not None or idle is not None
                self.workers[worker.number] = worker
                over = self.over
            if not over:
                passed = link if theirs is None else theirs.fileno()
                self.send({"do": "start", "n": worker.number, "lease": lease, "idle": idle}, (passed, their_err))
                worker.answered.wait(START_SECONDS)
                over = not worker.answered.is_set()
        finally:
            if theirs is not None:
                theirs.close()
            os.close(their_err)
        if over or worker.refusal:
            if ours is not None:
                ours.close()
            worker.stderr.close()
            return None, worker.refusal or self.problem or "its fork server does not answer"
        return worker, ""

    def _read(self):
        data = b""
        pidfds = []
        whole = True
        while True:
            try:
                piece, extra, flags, _ = self.sock.recvmsg(PIECE, socket.CMSG_SPACE(64 * 4))
            except EnvironmentError:
                piece, extra, flags = b"", [], 0
            for _, _, packed in extra:
                numbers = array.array("i")
                numbers.frombytes(packed[: len(packed) - len(packed) % numbers.itemsize])
                pidfds.extend(numbers)
            if flags & socket.MSG_CTRUNC:  # out of descriptors: whose pidfd is missing cannot be told
                whole = False
            while pidfds and not whole:
                os.close(pidfds.pop())
            if not piece:
                break
            lines = (data + piece).split(b"\n")
            data = lines.pop()
            for line in lines:
                self._hear(json.loads(line.decode("ascii")), pidfds)
        with self.lock:
            self.over = True
            self.problem = self.problem or "its fork server has ended"
            left, self.workers = list(self.workers.values()), {}
        self.ready.set()
        for worker in left:
            if not worker.answered.is_set():
                self._end(worker, None, self.problem)
            elif worker.watched:  # nobody would end it
                worker.why = "the factory that watched its deadline has ended"
                worker.signal(KILL)
        self.sock.close()
        self.process.wait()

    def _hear(self, message, pidfds):
        say = message["say"]
        if say == "ready":
            self.ready.set()
        elif say == "failed":
            self.problem = message["why"]
        elif say == "started":
            worker = self.workers[message["n"]]
            worker.pid = message["pid"]
            worker.pidfd = pidfds.pop(0) if message["pidfd"] and pidfds else None
            worker.answered.set()
        else:
            worker = self.workers.pop(message["n"])
            if say == "refused":
                worker.refusal = message["why"]
            self._end(worker, message.get("code"), message["why"])

    def _end(self, worker, code, why):
        worker.returncode, worker.why = code, why
        if not worker.answered.is_set():
            worker.refusal = why
        worker.answered.set()
        worker.ended.set()


def _forked_relay(relay):
    class ForkedRelay(relay.Relay):
        """Its process is no child of ours: the fork server signals it, and watches its deadlines."""

        active = False

        def signal(self, number):
            self.process.signal(number)

        def wait(self, seconds):
            if self.process.server.over:  # nobody will tell how it ended; the end of its link says that it has
                self.ended.wait(0.1)
                return None
            return relay.Relay.wait(self, seconds)

        def carry_out(self):
            try:
                relay.Relay.carry_out(self)
            finally:
                self.process.ended.set()

        def told(self, item):
            if item[0] == "renew":
                self.process.tell(do="renew", seconds=item[1])
            else:
                self.signal(item[0])

        def moved(self):
            self.active = True

        def tell_active(self, idle):
            """A thread of its own, for a worker with an idle time."""
            while not self.ended.wait(idle / ACTIVE_PART):
                if self.active:
                    self.active = False
                    self.process.tell(do="active")

        def obituary(self, code):
            return code, self.tail.decode("utf-8", "replace"), self.process.why

    return ForkedRelay


def _spawned_relay(relay):
    class SpawnedRelay(relay.Relay):
        """Its process is our child; we watch its deadlines."""

        why = ""
        lease = idle = lease_end = None
        active = False

        def watch(self, lease, idle):
            self.lease, self.idle = lease, idle
            self.renew(lease)
            if lease is not None or idle is not None:
                self.start_thread(self.enforce)

        def renew(self, seconds):
            if self.lease is not None:
                self.lease_end = clock() + (self.lease if seconds is None else seconds)
            self.active = True

        def moved(self):
            self.active = True

        def enforce(self):
            """A thread of its own."""
            idle_end = None
            while not self.ended.wait(min((self.idle or 1) / ACTIVE_PART, TICK)):
                now = clock()
                if self.idle is not None and (self.active or idle_end is None):
                    self.active, idle_end = False, now + self.idle
                if self.lease_end is not None and self.lease_end <= now:
                    self.why = "its lease has passed (lease=%s)" % self.lease
                elif idle_end is not None and idle_end <= now:
                    self.why = "nothing went over its link for too long (idle=%s)" % self.idle
                if self.why:
                    self.signal(15)
                    if not self.ended.wait(TERM_SECONDS):
                        self.kill()
                    return

        def told(self, item):
            if item[0] == "renew":
                self.renew(item[1])
            else:
                self.signal(item[0])

        def obituary(self, code):
            return code, self.tail.decode("utf-8", "replace"), self.why

    return SpawnedRelay


def _spawn(channel, relay, registry, spawn, limit, lease, idle):
    with registry.lock:
        if limit is not None and registry.spawned >= limit:
            raise Refused("all its %d places are taken (limit=%d); end a worker first" % (registry.spawned, limit))
        registry.spawned += 1
    try:
        process = relay._start(**spawn)
        carrier = _spawned_relay(relay)(channel, process)
        carrier.watch(lease, idle)
        relay.carry(carrier)
    finally:
        with registry.lock:
            registry.spawned -= 1


def main(channel, relay, server, lease, idle, spawn=None, limit=None):
    """Run until the worker has ended or the channel is closed."""
    source, relay = relay, types.ModuleType("relay")
    _execute(compile(source, "<execgw relay.py>", "exec", 0, True), relay.__dict__)
    registry = _registry()
    try:
        if spawn is not None:
            spawn = dict([(str(key), spawn[key]) for key in spawn])
            _spawn(channel, relay, registry, spawn, limit, lease, idle)
            return
        with registry.lock:
            if registry.server is not None and registry.server.over:
                registry.server = None
            if registry.server is None:
                if server is None:
                    raise Refused("its fork server has ended")
                registry.server = ForkServer(*server)
        worker, why = registry.server.start(lease, idle)
        if worker is None:
            raise Refused(why)
        carrier = _forked_relay(relay)(channel, worker)
        if idle is not None:
            carrier.start_thread(lambda: carrier.tell_active(idle))
        try:
            relay.carry(carrier)
        finally:
            worker.close()
    except Refused as e:
        channel.send((None, "", "its factory refuses: %s" % e))
    except (OSError, ValueError) as e:
        channel.send((None, "cannot start %r: %s" % (sys.executable, e)))

"""resume=: the process beside a worker that keeps its session while the near side's link breaks and comes again.

    near side <-- link: descriptors 0, 1, 2 of a *front*, held by the keeper --> keeper <-- socket pair --> worker
                             (the front only waits)

A front (keep_front.py) is what a transport starts.  The first one forks the keeper, which starts the worker; later ones
find it by a Unix socket in a private directory, and pass their descriptors on.  wire/kept.py knows what is kept.
"""

import array
import errno
import hmac
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys

from ..wire import frames as f
from ..wire.errors import RemoteProtocolError
from ..wire.kept import Kept
from . import keep_front
from .keep_front import PIECE, Link, clock, has_ended, proof, worker_link

LAST_SECONDS = 1.0  # without a near side, once that has asked for the end, or before the worker's hello
END_SECONDS = 1.5  # for a worker to end by itself when its link has ended; it takes 1 s for that
LINGER_SECONDS = 2.0  # for last words to be read
MOST_LINE = 64 * 1024  # of a near side that has proved nothing
MOST_STDERR = 64 * 1024  # of what a worker writes while nobody is there
TAIL = 4096


def _keep(request, boot, listening, link):
    keeper = Keeper(request, listening, link)
    keeper.start(request, boot)
    keeper.run()


def main():
    """Run in what a transport has started."""
    keep_front.main(_keep)


class Keeper(object):
    """One worker, its session, and whoever is on its near side."""

    def __init__(self, request, listening, link):
        self.id, self.secret, self.grace = request["id"], request["secret"], request["grace"]
        self.keepalive = request["keepalive"]
        self.listening = listening
        self.path = listening.getsockname()
        self.kept = Kept()
        self.link = link
        self.joining = []  # links that are not let in so far
        self.leaving = []  # links that are to hear last words
        self.epoch = 1
        self.to_worker = self.tail = self.unshown = b""
        self.code = None  # the exit code of the worker, when it has ended
        self.told = False  # and when the near side knows
        self.done = self.given_up = False
        self.alone_since = clock()
        self.kill_at = None
        self.wake_end, self.wake = os.pipe()
        for fd in (self.wake_end, self.wake):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.set_wakeup_fd(self.wake)

    def start(self, request, boot):
        """Start the worker, as this very interpreter."""
        worker, theirs = worker_link()
        argv = [sys.executable] + subprocess._args_from_interpreter_flags() + ["-c", request["program"]]
        process = subprocess.Popen(
            argv,
            stdin=theirs.fileno(),
            stdout=theirs.fileno() if request["worker_out"] else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        theirs.close()
        self.have(process, worker)
        self.to_worker = boot

    def have(self, process, worker):
        """This is the worker, and the socket that leads to it."""
        self.process, self.worker = process, worker
        self.stderr = process.stderr.fileno()
        worker.setblocking(False)
        os.set_blocking(self.stderr, False)

    # -- the loop

    def run(self):
        while not self.done:
            self._move()
            ready = self._poll()
            self._hear_worker(ready)
            self._hear_near(ready)
            self._hear_joining(ready)
            self._look_at_the_clock()
        self._end()

    def _poll(self):
        wanted = {self.wake_end: select.POLLIN, self.listening.fileno(): select.POLLIN}

        def want(fd, events):
            wanted[fd] = wanted.get(fd, 0) | events

        if self.worker is not None:
            want(self.worker.fileno(), select.POLLOUT if self.to_worker else 0)
            if not self.kept.full:
                want(self.worker.fileno(), select.POLLIN)
        if self.stderr >= 0 and len(self.unshown) < MOST_STDERR:
            want(self.stderr, select.POLLIN)
        for link in self.joining + self.leaving + ([self.link] if self.link else []):
            want(link.reads, select.POLLIN)
            want(link.control.fileno(), select.POLLIN)
            if link.out:
                want(link.writes, select.POLLOUT)
            if link.errors:
                want(link.err, select.POLLOUT)
        poller = select.poll()
        for fd, events in wanted.items():
            poller.register(fd, events)
        return dict(poller.poll(self._patience()))

    def _ends(self):
        """The times at which something must be done, and what."""
        for link in self.joining:
            yield link.deadline, lambda link=link: self._refuse(link, None)
        for link in self.leaving:
            yield link.deadline, lambda link=link: self._drop_leaving(link)
        if self.kill_at is not None:
            yield self.kill_at, self._kill
        if self.link is None and not self.given_up:
            soon = self.kept.bye or self.kept.about is None
            yield self.alone_since + (LAST_SECONDS if soon else self.grace), self._give_up
        elif self.link is not None and self.keepalive:
            yield self.link.said + self.keepalive / 4.0, self._speak
            yield self.link.heard + self.keepalive, self._lose_link

    def _patience(self):
        ends = [end for end, _ in self._ends()]
        return max(min(ends) - clock(), 0) * 1000 + 1 if ends else None

    def _look_at_the_clock(self):
        now = clock()
        for end, call in list(self._ends()):
            if end <= now:
                call()

    def _speak(self):
        self.kept.speak()
        self.link.said = clock()

    def _move(self):
        """From here to there, as much as goes."""
        link = self.link
        if link is not None:
            while True:
                if not link.out and self.kept.pending and not self.told:  # nothing comes behind OVER
                    link.out = self.kept.take(PIECE)
                link.errors, self.unshown = link.errors + self.unshown, b""
                if not link.flush():
                    self._lose_link()
                    return
                if link.out or self.told or not self.kept.pending:
                    break
            if self.code is not None and not link.out and not self.told:
                self._tell_end(link)
        try:
            while self.to_worker and self.worker is not None:
                self.to_worker = self.to_worker[self.worker.send(self.to_worker[:PIECE]) :]
        except OSError as e:
            if e.errno not in (errno.EAGAIN, errno.EINTR):
                self.to_worker = b""

    # -- the worker

    def _hear_worker(self, ready):
        if self.wake_end in ready:
            try:
                os.read(self.wake_end, 4096)
            except OSError:
                pass
        if self.stderr in ready:
            self._read_stderr()
        if self.worker is not None and ready.get(self.worker.fileno(), 0) & ~select.POLLOUT:
            self._read_worker()
        if self.code is None and self._has_ended():
            self._signal(signal.SIGKILL)  # what it has started ends with it
            code = self.process.wait()
            while self.stderr >= 0 and self._read_stderr():
                pass
            while self.worker is not None and self._read_worker():
                pass
            self.code = code
            self.kill_at = None
            self.done = self.given_up

    def _has_ended(self):
        """Whether the worker has; its number stays its own until it is waited for."""
        if not hasattr(os, "waitid"):  # PyPy
            return self.process.poll() is not None
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _read_worker(self):
        try:
            data = self.worker.recv(PIECE)
        except OSError as e:
            data = None if e.errno in (errno.EAGAIN, errno.EINTR) else b""
        if data:
            try:
                self.kept.from_worker(data)
            except RemoteProtocolError as e:
                self.tail += ("execgw: the worker broke the rules of the protocol: %s\n" % e).encode("utf-8")
                self._kill()
                data = b""
        if data == b"":
            self.worker.close()
            self.worker = None
            if self.kill_at is None:
                self.kill_at = clock() + END_SECONDS  # it ends, or it has lost its link
        return data

    def _read_stderr(self):
        try:
            data = os.read(self.stderr, 65536)
        except OSError as e:
            data = None if e.errno in (errno.EAGAIN, errno.EINTR) else b""
        if data == b"":
            self.process.stderr.close()
            self.stderr = -1
        elif data:
            self.tail = (self.tail + data)[-TAIL:]
            self.unshown = (self.unshown + data)[-2 * MOST_STDERR :]
            if self.link is None:  # nobody reads; a worker must not wait for that
                self.unshown = self.unshown[-MOST_STDERR + 1 :]
        return data

    def _signal(self, number):
        if self.code is None:
            try:
                os.killpg(self.process.pid, number)
            except OSError:
                pass

    def _kill(self):
        self.kill_at = None
        self._signal(signal.SIGKILL)

    # -- the near side

    def _tell_end(self, link):
        """The worker has ended, and all that it said is on its way."""
        self.told = True
        if self.kept.about is None:  # the start has failed, as it would without a keeper
            self.leaving.append(link)
            self.link, self.done = None, True
            link.flush()
            return
        link.frame(f.OVER, {"code": str(self.code), "stderr": self.tail.decode("utf-8", "replace")})
        link.flush()

    def _hear_near(self, ready):
        link = self.link
        if link is None:
            return
        if link.reads in ready or link.control.fileno() in ready:
            data = link.read()
            if data:
                try:
                    self.to_worker += self.kept.from_near(data)
                except RemoteProtocolError:
                    data = b""
                self._obey()
                link = self.link
            if link is not None and (data == b"" or has_ended(link.control)):
                self._lose_link()

    def _obey(self):
        orders, self.kept.orders = self.kept.orders, []
        for order in orders:
            if order.get("do") == "signal":
                self._signal(int(order["number"]))
            elif order.get("do") == "leave":
                self._lose_link()
            elif order.get("do") == "done":  # it knows how the worker has ended
                self.done = self.code is not None
                self._lose_link()

    def _lose_link(self):
        link, self.link = self.link, None
        self.told = False
        self.alone_since = clock()
        if link is not None:
            link.close()

    def _give_up(self):
        """Nobody has come, and nobody shall.  The worker hears that its near side has gone, and ends."""
        self.given_up = True
        self._unlink()
        if self.worker is not None:
            self.worker.close()
            self.worker = None
        self.kill_at = clock() + END_SECONDS
        self.done = self.code is not None

    def _drop_leaving(self, link):
        self.leaving.remove(link)
        link.close()

    # -- who wants to be the near side

    def _hear_joining(self, ready):
        if self.listening.fileno() in ready:
            self._accept()
        for link in list(self.joining):
            if link.reads in ready or link.control.fileno() in ready:
                data = link.read()
                if data == b"" or has_ended(link.control):
                    self._refuse(link, None)
                    continue
                link.data += data or b""
                line, end, rest = link.data.partition(b"\n")
                if end:
                    link.data = rest
                    self._admit(link, line)
                elif len(link.data) > MOST_LINE:
                    self._refuse(link, None)
            elif not link.flush():
                self._refuse(link, None)
        for link in list(self.leaving):
            if not link.flush() or not (link.out or link.errors) or link.control.fileno() in ready:
                self._drop_leaving(link)

    def _accept(self):
        try:
            sock, _ = self.listening.accept()
        except OSError:
            return
        sock.settimeout(LAST_SECONDS)
        try:
            if hasattr(socket, "SO_PEERCRED"):
                uid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
                if uid != os.getuid():
                    raise OSError("another user")
            fds = array.array("i")
            data, extra, _, _ = sock.recvmsg(MOST_LINE, socket.CMSG_SPACE(3 * fds.itemsize))
            for _, _, packed in extra:
                fds.frombytes(packed)
            while data[-1:] != b"\n":
                piece = sock.recv(MOST_LINE)
                if not piece:
                    raise OSError("it has gone")
                data += piece
            link = Link(list(fds), sock)
            link.request = json.loads(data.decode("ascii"))
        except (OSError, ValueError):
            sock.close()
            return
        self.joining.append(link)
        link.out = f.MARKER
        link.say(
            {"nonce": link.nonce, "proof": proof(self.secret, "keeper", self.id, link.request["nonce"], link.nonce)}
        )
        link.flush()

    def _refuse(self, link, why):
        if link in self.joining:
            self.joining.remove(link)
        if why is not None:
            link.say({"refused": why})
        link.deadline = clock() + LINGER_SECONDS
        self.leaving.append(link)
        link.flush()

    def _admit(self, link, line):
        """It has sent its proof."""
        do = link.request.get("do")
        try:
            told = json.loads(line.decode("ascii"))
            epoch, seen = told["epoch"], told["seen"]
            words = (self.id, link.request["nonce"], link.nonce, do, epoch, seen)
            right = hmac.compare_digest(told["proof"], proof(self.secret, "near", *words))
        except (ValueError, KeyError, TypeError):
            right = False
        if not right:
            self._refuse(link, "secret")
        elif do == "resume" and epoch != self.epoch:
            self._refuse(link, "taken")
        elif do == "attach" and self.code is not None:
            self._refuse(link, "ended %d" % self.code)
            self.done = self.link is None  # somebody knows
        elif do == "attach" and (self.kept.about is None or self.kept.bye):
            self._refuse(link, "starting" if self.kept.about is None else "bye")
        else:
            self.joining.remove(link)
            self._let_in(link, do, seen)

    def _let_in(self, link, do, seen):
        old, self.link = self.link, link
        answer = {}
        if do == "attach":
            self.epoch += 1
            answer["state"] = self.kept.adopt()
            answer["keepalive"] = self.keepalive
            answer["pid"] = self.process.pid
        else:
            try:
                answer["had"] = self.kept.resume(seen)
            except RemoteProtocolError:
                self.link = old
                self._refuse(link, "seen")
                return
        if old is not None:
            if do == "attach":
                old.frame(f.OVER, {"why": "taken"})
            self.leaving.append(old)
            old.deadline = clock() + LINGER_SECONDS
        self.told = False
        answer["epoch"] = self.epoch
        link.heard = link.said = clock()
        link.say(answer)
        self.to_worker += self.kept.from_near(link.data)
        link.data = b""
        self._obey()

    # -- the end

    def _unlink(self):
        try:
            os.unlink(self.path)
        except OSError:
            pass

    def _end(self):
        """Nothing is left: no socket, no process."""
        self._unlink()
        if self.code is None:
            self._signal(signal.SIGKILL)
            self.code = self.process.wait()
        for link in self.leaving + self.joining + ([self.link] if self.link else []):
            link.flush()
            link.close(self.code if self.kept.about is None else None)

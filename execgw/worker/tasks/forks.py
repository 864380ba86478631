"""The fork server's talk with those who want workers, and its watch over these; serve() is all it does.

Over Unix sockets, one JSON object a line:

    near  {do: start, n, keep, ..} + descriptors of its link and stderr        {do: signal | renew | active, n, ..}
    here  {say: started, n, pid} + a pidfd   {say: refused, n, why}   {say: ended, n, code, why}

One child is always forked ahead, the spare; it waits for a link, and the next is forked when nobody waits for us.

The first link is the owner's, and this process ends with it; each worker ends with the link that asked for it.  A
worker whose lease or idle time passes is killed from here, for it may itself be stuck.  One with *keep* (resume=) is
the keeper of another, which it forks; it outlives its link, and this process, for as long as it itself sees fit.
"""

import array
import errno
import json
import os
import select
import signal
import socket
import struct
import sys
import time
import warnings

PIECE = 64 * 1024
END_SECONDS = 1.3  # for a worker to end by itself when its near side has gone; it takes 1 s for that
TERM_SECONDS = 0.5  # between SIGTERM and SIGKILL for one whose time is over
DESCRIPTORS = 2  # with each start: link, stderr

clock = getattr(time, "monotonic", time.time)


class Child(object):
    """One worker."""

    def __init__(self, link, number, pid):
        self.link = link
        self.number = number
        self.pid = pid
        self.keeps = False
        self.stderr = -1  # kept only for one that has a deadline, to say there why it is ended
        self.lease_end = self.idle = self.idle_end = self.kill_at = None
        self.lease = None
        self.why = ""

    def deadline(self):
        ends = [end for end in (self.lease_end, self.idle_end, self.kill_at) if end is not None]
        return min(ends) if ends else None


def receive(sock):
    """(bytes, descriptors) that have come, with a byte at least; no bytes at the end."""
    room = socket.CMSG_SPACE(64 * array.array("i").itemsize)
    data, extra, _, _ = sock.recvmsg(PIECE, room, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
    descriptors = []
    for level, kind, packed in extra:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(packed[: len(packed) - len(packed) % numbers.itemsize])
            descriptors.extend(numbers)
    for fd in descriptors:
        os.set_inheritable(fd, False)
    return data, descriptors


def pass_on(sock, data, descriptors):
    """Send them; how many bytes went."""
    packed = array.array("i", descriptors)
    return sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)] if descriptors else [])


class Link(object):
    """Somebody who wants workers."""

    def __init__(self, sock, owner):
        sock.setblocking(False)
        self.sock = sock
        self.owner = owner
        self.ended = False  # it wants nothing more, but may still listen
        self.data = b""
        self.descriptors = []
        self.out = []  # (bytes, descriptor or None)

    def read(self):
        """The messages that have come; None at the end."""
        try:
            data, descriptors = receive(self.sock)
        except EnvironmentError as e:
            return [] if e.errno in (errno.EAGAIN, errno.EINTR) else None
        self.descriptors.extend(descriptors)
        if not data:
            return None
        lines = (self.data + data).split(b"\n")
        self.data = lines.pop()
        return [json.loads(line.decode("utf-8")) for line in lines]

    def say(self, message, fd=None):
        self.out.append((json.dumps(message).encode("ascii") + b"\n", fd))
        self.flush()

    def flush(self):
        while self.out:
            data, fd = self.out[0]
            try:
                done = pass_on(self.sock, data, [] if fd is None else [fd])
            except EnvironmentError as e:
                if e.errno in (errno.EAGAIN, errno.EINTR):
                    return
                done = len(data)  # it has gone, which reading tells
            if fd is not None:
                os.close(fd)
            self.out[0] = (data[done:], None)
            if done == len(data):
                del self.out[0]

    def close(self):
        """Let go of all that is open."""
        for fd in self.descriptors + [fd for _, fd in self.out if fd is not None]:
            os.close(fd)
        self.descriptors, self.out = [], []
        self.sock.close()


def _pidfd(pid):
    """A descriptor that stands for the child, taken before its number can be another's."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, EnvironmentError):
        return None


def _ended_children():
    """(pid, exit code) of each child that has ended; what is left of its group is killed before its number is free."""
    while True:
        try:
            if hasattr(os, "waitid"):
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                pid = found.si_pid if found else 0
                if pid:
                    _signal_group(pid, signal.SIGKILL)
                    _, status = os.waitpid(pid, 0)
            else:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid:
                    _signal_group(pid, signal.SIGKILL)
        except EnvironmentError:  # there are no children
            return
        if not pid:
            return
        yield pid, -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _signal_group(pid, number):
    try:
        os.killpg(pid, number)
    except EnvironmentError:
        pass


class Server(object):
    """The links and the children; serve() returns in each child what it is to do, and None here at the end."""

    def __init__(self, owner):
        self.links = [owner]
        self.children = {}
        self.spare = None  # (pid, socket)
        self.listening = []
        self.limit = None
        self.ending = False
        self.wake_end, self.wake = os.pipe()
        for fd in (self.wake_end, self.wake):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self.wake)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def serve(self):
        while not self.ending or not all([child.keeps for child in self.children.values()]):
            poller = select.poll()
            poller.register(self.wake_end, select.POLLIN)
            by_fd = {}
            for link in self.links:
                if link.ended:
                    continue
                by_fd[link.sock.fileno()] = link
                poller.register(link.sock.fileno(), select.POLLIN | (select.POLLOUT if link.out else 0))
            for sock in self.listening:
                poller.register(sock.fileno(), select.POLLIN)
            ready = poller.poll(0)
            if not ready:
                job = self._fork_ahead()
                if job is not None:
                    return job
                ready = poller.poll(self._patience())
            for fd, _ in ready:
                if fd == self.wake_end:
                    self._reap()
                elif fd in by_fd:
                    job = self._hear(by_fd[fd])
                    if job is not None:
                        return job
                else:
                    self._accept([sock for sock in self.listening if sock.fileno() == fd][0])
            self._enforce()
        return None

    def _patience(self):
        ends = [end for end in [child.deadline() for child in self.children.values()] if end is not None]
        return None if not ends else max(min(ends) - clock(), 0) * 1000 + 1

    def _reap(self):
        try:
            os.read(self.wake_end, 4096)
        except EnvironmentError:
            pass
        for pid, code in _ended_children():
            child = self.children.pop(pid, None)
            if self.spare is not None and pid == self.spare[0]:
                self._drop_spare()
            if child is None:  # or something that a preloaded module has started
                continue
            if child.stderr >= 0:
                os.close(child.stderr)
            if child.link in self.links:
                child.link.say({"say": "ended", "n": child.number, "code": code, "why": child.why})

    # -- links

    def _accept(self, listening):
        try:
            sock, _ = listening.accept()
        except EnvironmentError:
            return
        if hasattr(socket, "SO_PEERCRED"):
            _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid != os.getuid():
                sock.close()
                return
        link = Link(sock, owner=False)
        self.links.append(link)
        self._say_ready(link)

    def _say_ready(self, link):
        link.say({"say": "ready", "version": self.version, "python": list(sys.version_info[:3]), "pid": os.getpid()})

    def _hear(self, link):
        link.flush()
        messages = link.read()
        if messages is None:
            self._leave(link)
            return None
        for message in messages:
            if message["do"] == "start":
                job = self._start(link, message)
                if job is not None:
                    return job
            elif message["do"] == "listen":
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, link.descriptors.pop(0))
                sock.setblocking(False)
                self.listening.append(sock)
                link.say({"say": "listening"})
            else:
                for child in self.children.values():
                    if child.link is link and child.number == message["n"]:
                        self._steer(child, message)
        return None

    def _leave(self, link, seconds=END_SECONDS):
        """Whoever was there has gone, or closed the link: the workers go, too."""
        link.ended = True
        if not link.owner:
            self.links.remove(link)
            link.close()
        for child in self.children.values():
            if child.link is link and not child.keeps:
                child.kill_at = clock() + seconds
        if link.owner:
            self.ending = True
            self._drop_spare()
            for other in [other for other in self.links if not other.owner]:
                self._leave(other, 0)  # their near sides live, and would go on
            for sock in self.listening:
                sock.close()
            self.listening = []

    def _steer(self, child, message):
        if message["do"] == "signal":
            _signal_group(child.pid, message["number"])
        elif message["do"] == "renew" and not child.why:
            seconds = message.get("seconds")
            if child.lease is not None:
                child.lease_end = clock() + (child.lease if seconds is None else seconds)
        if child.idle is not None and not child.why:  # renewed, or something went over its link
            child.idle_end = clock() + child.idle

    def _enforce(self):
        now = clock()
        for child in list(self.children.values()):
            if child.kill_at is not None and child.kill_at <= now:
                _signal_group(child.pid, signal.SIGKILL)
                child.kill_at = None
            elif not child.why and child.lease_end is not None and child.lease_end <= now:
                self._end(child, "its lease has passed (lease=%s)" % child.lease)
            elif not child.why and child.idle_end is not None and child.idle_end <= now:
                self._end(child, "nothing went over its link for too long (idle=%s)" % child.idle)

    def _end(self, child, why):
        """Tell the worker why, on its stderr and by SIGTERM; SIGKILL follows."""
        child.why = why
        child.lease_end = child.idle_end = None
        child.kill_at = clock() + TERM_SECONDS
        poller = select.poll()
        poller.register(child.stderr, select.POLLOUT)
        if any(event & select.POLLOUT for _, event in poller.poll(0)):  # so it takes PIPE_BUF bytes
            try:
                os.write(child.stderr, ("execgw: the factory ends this worker: %s\n" % why).encode("ascii"))
            except EnvironmentError:
                pass
        _signal_group(child.pid, signal.SIGTERM)

    # -- workers

    def _start(self, link, message):
        number = message["n"]
        fds = [link.descriptors.pop(0) for _ in range(min(DESCRIPTORS, len(link.descriptors)))]
        why = ""
        if len(fds) < DESCRIPTORS:
            why = "the descriptors of the link did not arrive"
        elif self.limit is not None and len(self.children) >= self.limit:
            why = "all its %d places are taken (limit=%d); end a worker first" % (len(self.children), self.limit)
        elif self.spare is None:
            try:
                job = self._fork()
            except EnvironmentError as e:
                why = "it cannot fork: %s" % e.strerror
            else:
                if job is not None:
                    for fd in fds:
                        os.close(fd)
                    return job
        if not why and not self._use_spare(link, message, fds):
            why = "the process that it had forked has ended"
        if why:
            link.say({"say": "refused", "n": number, "why": why})
        for fd in fds:
            os.close(fd)
        return None

    def _fork(self):
        """Fork the spare.  In it, returns what it waits on."""
        ours, theirs = socket.socketpair()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that there are threads: those of numpy's libraries end before
                pid = os.fork()
        except EnvironmentError:
            ours.close()
            theirs.close()
            raise
        if not pid:
            ours.close()
            return theirs
        theirs.close()
        try:
            os.setpgid(pid, pid)  # here, too: whoever is first
        except EnvironmentError:
            pass
        self.spare = pid, ours
        return None

    def _fork_ahead(self):
        """Nobody waits: have a spare."""
        if self.spare is not None or self.ending:
            return None
        try:
            return self._fork()
        except EnvironmentError:  # when one is asked for, it will be told
            return None

    def _drop_spare(self):
        """It ends by that, if it has not."""
        if self.spare is not None:
            self.spare[1].close()
            self.spare = None

    def _use_spare(self, link, message, fds):
        """Make a worker of the spare; false if it has died."""
        pid, sock = self.spare
        self.spare = None
        try:
            pass_on(sock, json.dumps(message).encode("ascii"), fds)
        except EnvironmentError:
            return False
        finally:
            sock.close()
        child = self.children[pid] = Child(link, message["n"], pid)
        child.lease, child.idle, child.keeps = message.get("lease"), message.get("idle"), bool(message.get("keep"))
        if child.lease is not None:
            child.lease_end = clock() + child.lease
        if child.idle is not None:
            child.idle_end = clock() + child.idle
        if child.deadline() is not None:
            child.stderr = fds.pop()
        pidfd = _pidfd(pid)
        link.say({"say": "started", "n": child.number, "pid": pid, "pidfd": pidfd is not None}, pidfd)
        return True

    def forget(self):
        """In a child: nothing of this is its own."""
        signal.set_wakeup_fd(-1)
        self._drop_spare()
        for link in self.links:
            link.close()
        for sock in self.listening:
            sock.close()
        kept = [child.stderr for child in self.children.values() if child.stderr >= 0]
        for fd in [self.wake_end, self.wake] + kept:
            os.close(fd)

"""resume=: what a transport starts to reach the keeper of a worker: the front, and what both know of a link.

front reads     {do: start, id, secret, grace, keepalive, out, program, size ..} + boot of the worker
                {do: resume | attach, id, nonce, out}
keeper answers  as the worker, at a start; else MARKER {nonce, proof}; near side: {proof, epoch, seen}
                then {epoch, had, state} and frames, or {refused}
"""

import array
import binascii
import errno
import hashlib
import hmac
import json
import os
import signal
import socket
import stat
import sys
import time
import traceback

from ..wire import frames as f

PIECE = 256 * 1024
HANDSHAKE_SECONDS = 10.0
STALE_SECONDS = 60.0  # after which the socket of a keeper that does not listen is nobody's
NAME = b"execgw keep 1\n"
clock = time.monotonic


def proof(secret, role, *words):
    """What only who knows the secret can say, in this role and to this question."""
    text = NAME + "\n".join([role] + [str(word) for word in words]).encode("utf-8")
    return hmac.new(secret.encode("ascii"), text, hashlib.sha256).hexdigest()


class Link(object):
    """Descriptors to the near side; *control* is the front, whose end is theirs."""

    def __init__(self, fds, control):
        self.reads, self.writes, self.err = fds
        self.control = control
        self.data = b""  # that came before it was let in
        self.out = b""
        self.errors = b""  # stderr that is to be shown there
        self.request = {}
        self.nonce = binascii.hexlify(os.urandom(32)).decode("ascii")
        self.deadline = clock() + HANDSHAKE_SECONDS
        self.heard = self.said = clock()
        for fd in fds:
            os.set_blocking(fd, False)
            os.set_inheritable(fd, False)
        control.setblocking(False)

    def read(self):
        """Bytes, None if there are none now, b'' at the end."""
        try:
            data = os.read(self.reads, PIECE)
        except OSError as e:
            data = None if e.errno in (errno.EAGAIN, errno.EINTR) else b""
        if data:
            self.heard = clock()
        return data

    def flush(self):
        """Write what the descriptors take; false if the link is broken."""
        try:
            while self.out:
                self.out = self.out[os.write(self.writes, self.out[:PIECE]) :]
                self.said = clock()
        except OSError as e:
            if e.errno not in (errno.EAGAIN, errno.EINTR):
                return False
        try:
            while self.errors:
                self.errors = self.errors[os.write(self.err, self.errors[:4096]) :]
        except OSError as e:
            if e.errno not in (errno.EAGAIN, errno.EINTR):
                self.errors = b""
        return True

    def say(self, message):
        self.out += json.dumps(message).encode("ascii") + b"\n"

    def frame(self, kind, pairs):
        """A frame outside of the sequence."""
        payload = f.pack_pairs(pairs)
        self.out += f.HEADER.pack(kind, 0, 0, 0, 0, 0, len(payload)) + payload

    def close(self, code=None):
        """Let go; the front ends with that, with *code* if there is one."""
        if code is not None:
            try:
                self.control.sendall(b"%d\n" % code)
            except OSError:
                pass
        for fd in (self.reads, self.writes, self.err):
            os.close(fd)
        self.control.close()


def worker_link():
    """The keeper's end and the worker's."""
    pair = socket.socketpair()
    for sock in pair:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return pair


def has_ended(sock):
    try:
        return not sock.recv(1)
    except OSError as e:
        return e.errno not in (errno.EAGAIN, errno.EINTR)


# -- the front


def read_line(fd):
    data = b""
    while data[-1:] != b"\n":
        piece = os.read(fd, 1)  # what follows is not for this line's reader
        if not piece:
            sys.exit("execgw: the near side went away during the start")
        data += piece
    return json.loads(data.decode("ascii"))


def _read_exactly(fd, size):
    data = b""
    while len(data) < size:
        piece = os.read(fd, size - len(data))
        if not piece:
            sys.exit("execgw: the near side went away during the start")
        data += piece
    return data


def _socket_path(session):
    """Where the keeper of a session listens: in a directory that nobody else can have made, or look into."""
    folder = "/tmp/execgw-%d" % os.getuid()
    try:
        os.mkdir(folder, 0o700)
    except OSError as e:
        if e.errno != errno.EEXIST:
            sys.exit("execgw: resume: cannot make %s: %s" % (folder, e.strerror))
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        sys.exit("execgw: resume: %s must be a directory of this user alone (mode 700), and it is not" % folder)
    return os.path.join(folder, hashlib.sha256(session.encode("utf-8")).hexdigest()[:32])


def main(become_keeper):
    """The life of a front; the first of a session forks the keeper."""
    request = read_line(0)
    fds = [0, request["out"], 2]
    ours, theirs = socket.socketpair()
    if request["do"] == "start":
        boot = _read_exactly(0, request["size"])
        listening = listen(request["id"])
        if not os.fork():
            ours.close()
            os.setsid()
            link = Link([os.dup(fd) for fd in fds], theirs)
            hush()
            try:
                become_keeper(request, boot, listening, link)
            except BaseException:
                os.write(link.err, traceback.format_exc().encode("utf-8", "replace"))
            finally:
                os._exit(0)
        listening.close()
    else:
        ours.close()
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            ours.connect(_socket_path(request["id"]))
        except OSError:
            os.write(fds[1], f.MARKER + b'{"refused": "gone"}\n')
            return
        ours.sendmsg(
            [json.dumps(request).encode("ascii") + b"\n"],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))],
        )
    theirs.close()
    told = b""
    while told[-1:] != b"\n":
        piece = ours.recv(64)
        if not piece:
            os._exit(0)
        told += piece
    end_as(int(told))


def hush():
    """Nothing that is printed here gets anywhere."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)


def end_as(code):
    """End this process with the exit code, or by the signal, that another one had."""
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    os._exit(code)


def _sweep(folder):
    """Unlink the sockets of keepers that were killed.  One that has just been made may not listen yet."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            if time.time() - os.lstat(path).st_mtime > STALE_SECONDS and sock.connect_ex(path) == errno.ECONNREFUSED:
                os.unlink(path)
        except OSError:  # somebody else has swept
            pass
        finally:
            sock.close()


def listen(session):
    """The socket at which later fronts find the keeper of a session."""
    path = _socket_path(session)
    _sweep(os.path.dirname(path))
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        sock.bind(path)
    finally:
        os.umask(mask)
    sock.listen(16)
    sock.setblocking(False)
    return sock

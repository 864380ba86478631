"""One client of a socket listener (listen.py loads this): its handshake, its worker, and with TLS its bytes.

    [TLS] -> nonces -> client's proof -> our proof -> request -> process started -> its own bytes

Without TLS the accepted socket itself becomes descriptor 0 of the process, and nothing is carried here; with TLS a
thread decrypts.  Either way a second descriptor of the connection stays here, on which the client's end is seen.
The near half is transports/guard.py.
"""

import errno
import hashlib
import hmac
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time

MAGIC = b"execgw listen 1\n"
NONCE = 32
PROOF = 32
MOST_REQUEST = 2 << 20
HANDSHAKE_SECONDS = 10.0
PIECE = 64 * 1024
KILL = getattr(signal, "SIGKILL", 9)
clock = getattr(time, "monotonic", time.time)


class Refused(Exception):
    """The client is sent away; the text goes to the log."""


def proof(token, role, client, server, binding):
    """What only who knows the token can say, for this connection and this role alone."""
    return hmac.new(token, MAGIC + role + client + server + binding, hashlib.sha256).digest()


def native(text):
    """Text as this Python wants it for arguments and the environment."""
    return text if isinstance(text, str) else text.encode("utf-8")


def own_session():
    if sys.version_info >= (3, 2):
        return {"start_new_session": True}
    return {"preexec_fn": os.setsid}


def signal_group(pid, number):
    try:
        os.killpg(pid, number)
    except OSError:
        pass


def write_all(fd, data):
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        pass


def _log(who, what):
    write_all(2, ("execgw listen: %s: %s\n" % (who, what)).encode("ascii", "backslashreplace"))


def stay_alive(sock, seconds):
    """Let the kernel find out within *seconds* that the other host is gone; 0: never."""
    if sock.family == getattr(socket, "AF_UNIX", None):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not seconds:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform.startswith("linux"):
        third = max(int(seconds / 3.0), 1)
        for option, value in ((4, third), (5, third), (6, 3), (18, max(int(seconds * 1000) - 500, 1))):
            # TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_USER_TIMEOUT: Python 2.7 does not know the last
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


class Connection(object):
    """One client, and the process that it gets.  run() is a thread of its own."""

    def __init__(self, listener, sock, who):
        self.listener = listener
        self.sock = sock
        self.who = who
        # For shutdown() and poll() by other threads: an SSL socket cannot take that, and a passed one is closed here.
        self.line = socket.fromfd(sock.fileno(), sock.family, socket.SOCK_STREAM)
        self.deadline = clock() + HANDSHAKE_SECONDS  # of the handshake; then, for a worker whose client has gone
        self.why = ""
        self.process = None
        self.over = False
        self.tail = b""

    def drop(self, why):
        """End the connection, from another thread."""
        self.why = self.why or why
        try:
            self.line.shutdown(socket.SHUT_RDWR)
        except EnvironmentError:
            pass

    def run(self):
        outcome = "a mistake in the listener"
        try:
            outcome = self._serve(self._handshake())
        except Refused as e:
            outcome = "refused: %s" % e
        except EnvironmentError as e:
            outcome = "failed: %s" % (e.strerror or type(e).__name__)
        except (ValueError, TypeError, KeyError, AttributeError):
            outcome = "refused: a request that makes no sense"
        finally:
            self.listener.done(self)
            for sock in (self.sock, self.line):
                try:
                    sock.close()
                except EnvironmentError:
                    pass
            _log(self.who, self.why or outcome)
            self.listener.wake()

    # -- before the worker

    def _exactly(self, size):
        data = b""
        while len(data) < size:
            piece = self.sock.recv(min(size - len(data), PIECE))
            if not piece:
                raise Refused("it ended the connection during the handshake")
            data += piece
        return data

    def _message(self, kind, payload):
        self.sock.sendall(kind + ("%08x" % len(payload)).encode("ascii") + payload)

    def _say_no(self, text):
        try:
            self._message(b"E", text.encode("utf-8"))
        except EnvironmentError:
            pass

    def _handshake(self):
        listener = self.listener
        self.sock.setblocking(True)
        stay_alive(self.sock, HANDSHAKE_SECONDS)
        if listener.context is not None:
            self.sock = listener.context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
            try:
                self.sock.do_handshake()
            except EnvironmentError:
                raise Refused("no TLS")
        if self._exactly(len(MAGIC)) != MAGIC:
            raise Refused("it is no execgw client")
        theirs, ours = self._exactly(NONCE), os.urandom(NONCE)
        self.sock.sendall(MAGIC + ours)
        nonces = theirs, ours, listener.binding
        if not hmac.compare_digest(self._exactly(PROOF), proof(listener.token, b"client", *nonces)):
            self._say_no("token")
            raise Refused("it does not know the token")
        self._message(b"P", proof(listener.token, b"server", *nonces))
        head = self._exactly(9)
        size = int(head[1:], 16)
        if head[:1] != b"R" or not 0 < size <= MOST_REQUEST:
            raise Refused("a request that makes no sense")
        return json.loads(self._exactly(size).decode("ascii"))

    # -- the worker

    def _serve(self, request):
        if not self.listener.admit(self):
            raise Refused("too late" if self.why else "this listener was for one client")
        stay_alive(self.line, float(request["keepalive"]))
        secure = self.listener.context is not None
        ours, theirs = socket.socketpair() if secure else (None, self.sock)
        try:
            try:
                self.process = self._start(request, theirs.fileno())
            except (EnvironmentError, ValueError, TypeError) as e:
                missing = "python" if getattr(e, "errno", None) == errno.ENOENT else "start"
                self._say_no("%s:%s" % (missing, e))
                raise Refused("cannot start: %s" % type(e).__name__)
            pid = self.process.pid
            self.listener.guard("+", pid)
            _log(self.who, "started process %d" % pid)
            self._message(b"S", b"")
            if secure:
                theirs.close()
            else:
                self.sock.close()  # the worker's own now; the end of it is to be the end of the connection
            reader = threading.Thread(target=self._read_stderr)
            reader.daemon = True
            reader.start()
            if secure:
                self._carry(ours)
            code = self._wait()
            reader.join(0.2)
        finally:
            if self.process is not None:
                self._wait()
            if ours is not None:
                ours.close()
        self._end_line()
        return "process %d ended: %s" % (pid, "exit code %d" % code if code >= 0 else "signal %d" % -code)

    def _start(self, request, fd):
        argv = [sys.executable if word is None else native(word) for word in request["argv"]]
        if argv[0].startswith("-"):
            raise ValueError("%r names no program" % argv[0])
        if request["nice"] is not None:
            argv = ["nice", "-n", str(int(request["nice"]))] + argv
        cwd = request["chdir"] and native(request["chdir"])
        if cwd and not os.path.isdir(cwd):
            os.makedirs(cwd)
        env = dict(os.environ, **dict([(native(k), native(v)) for k, v in request["env"].items()]))
        with self.listener.starting:  # Python 2.7 starts one at a time, or children get each other's pipes
            return subprocess.Popen(
                argv, stdin=fd, stdout=fd, stderr=subprocess.PIPE, cwd=cwd, env=env, close_fds=True, **own_session()
            )

    def signal(self, number):
        """To its process and all that this one has started."""
        signal_group(self.process.pid, number)

    def _wait(self):
        """The exit code; what the worker has started in its group ends with it."""
        process = self.process
        if self.over:
            return process.returncode
        if hasattr(os, "waitid") and hasattr(os, "WNOWAIT"):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            with self.listener.lock:  # until wait() its number cannot be another's
                signal_group(process.pid, KILL)
                process.wait()
                self.over = True
        else:
            process.wait()
            self.over = True
            signal_group(process.pid, KILL)
        self.listener.guard("-", process.pid)
        return process.returncode

    def _read_stderr(self):
        """Pass it on to our own, and keep the last of it."""
        stderr = self.process.stderr
        try:
            while True:
                data = os.read(stderr.fileno(), PIECE)
                if not data:
                    break
                write_all(2, data)
        except EnvironmentError:
            pass
        stderr.close()

    def _end_line(self):
        """Let the client read all that was written, before it hears of the end."""
        try:
            self.line.shutdown(socket.SHUT_WR)
            self.line.settimeout(1.0)
            while self.line.recv(PIECE):  # closing with bytes unread would be a reset, and what we wrote be lost
                pass
        except EnvironmentError:
            pass

    def _carry(self, inner):
        """TLS: decrypt for the worker and encrypt for the client until one of them has gone; neither is read ahead."""
        outer = self.sock
        outer.setblocking(False)
        inner.setblocking(False)
        inward, outward = Way(outer, inner), Way(inner, outer)
        while (inward.open or inward.waiting) and (outward.open or outward.waiting):
            moved = inward.move()
            if outward.move() or moved:
                continue
            poller = select.poll()
            for sock, reads, writes in ((outer, inward, outward), (inner, outward, inward)):
                events = (select.POLLOUT if writes.waiting else 0) | (select.POLLIN if reads.wants() else 0)
                if events:  # with none it would be told of an end again and again
                    poller.register(sock.fileno(), events)
            poll(poller, None)
        if not inward.open:
            self.listener.gone(self)
        inner.close()


class Way(object):
    """Bytes on their way from one socket to another; at most one piece waits."""

    def __init__(self, source, target):
        self.source = source
        self.target = target
        self.waiting = b""
        self.open = True

    def wants(self):
        return self.open and not self.waiting

    def move(self):
        """Move what can be moved now; whether anything was."""
        moved = False
        if self.wants():
            data = _attempt(self.source.recv, PIECE)
            if data is not None:
                moved = True
                self.waiting = data
                self.open = bool(data)
        while self.waiting:
            done = _attempt(self.target.send, self.waiting)
            if done is None:
                break
            moved = True
            self.waiting = self.waiting[done:] if done else b""
            self.open = self.open and bool(done)
        return moved


def _attempt(call, what):
    """The result of a call on a socket that does not block; None: not now; b'': the other end has gone."""
    import ssl

    try:
        return call(what)
    except ssl.SSLError as e:
        return None if e.args[0] in (ssl.SSL_ERROR_WANT_READ, ssl.SSL_ERROR_WANT_WRITE) else b""
    except EnvironmentError as e:
        return None if e.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR) else b""


def poll(poller, seconds):
    try:
        return poller.poll(None if seconds is None else int(max(seconds, 0) * 1000 + 1))
    except (EnvironmentError, select.error) as e:
        if e.args[0] != errno.EINTR:
            raise
        return []

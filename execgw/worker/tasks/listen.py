"""socket=: a server beside this worker, which starts one process for each client that knows the token.

serve()            accepts, watches the clients of workers, enforces times      at most 256 without proof, 10 s each
a thread a client  handshake, request, process: listen_client.py, which comes along as text
guardian           a process that ends all workers should this one be killed
"""

import errno
import hashlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types

MOST_HALF_OPEN = 256  # clients that have not proved anything yet; the oldest goes first
GRACE_SECONDS = 2.0  # for a worker to end by itself when its client has gone; it takes 1 s for that
STOP_SECONDS = 0.4  # between SIGTERM and SIGKILL when the listener ends: less than a worker has that lost its near side
GONE = getattr(select, "POLLRDHUP", 0x2000) if sys.platform.startswith("linux") else 0  # Python 2.7 has no name for it

client = types.ModuleType("client")

# Kills the workers if this process is killed itself: they hold their clients' sockets, and would live on.
GUARDIAN = """
import os, signal
alive = set()
rest = b''
while 1:
    data = os.read(0, 4096)
    if not data:
        break
    lines = (rest + data).split(b'\\n')
    rest = lines.pop()
    for line in lines:
        (alive.add if line[:1] == b'+' else alive.discard)(int(line[1:]))
for pid in alive:
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass
"""


class NeedsTls(Exception):
    """It was asked to listen where others could listen in."""


class Listener(object):
    """The listening sockets, and all connections.  serve() accepts, and enforces what has a time."""

    def __init__(self, token, context, binding, once):
        self.token = token
        self.context = context
        self.binding = binding
        self.once = once
        self.connection = client.Connection
        self.lock = threading.Lock()
        self.starting = threading.Lock()
        self.sockets = []
        self.paths = []
        self.half = []  # connections that have not proved anything, oldest first
        self.workers = []  # those that have; their clients are watched
        self.leaving = []  # and those whose client has gone
        self.stopped = False
        self.used = False
        self._woken, self._wake = os.pipe()
        self._guardian = subprocess.Popen(
            [sys.executable, "-c", GUARDIAN], stdin=subprocess.PIPE, close_fds=True, **client.own_session()
        )

    def guard(self, sign, pid):
        """Tell the guardian of a process that has come or gone."""
        client.write_all(self._guardian.stdin.fileno(), ("%s%d\n" % (sign, pid)).encode("ascii"))

    def wake(self):
        client.write_all(self._wake, b"!")

    # -- connections; called in their threads

    def admit(self, connection):
        """From now on it has no deadline.  False if it was dropped, or somebody else was here first."""
        with self.lock:
            if connection.why or self.stopped or (self.once and self.used):
                return False
            self.used = True
            self.half.remove(connection)
            self.workers.append(connection)
        self.wake()
        return True

    def gone(self, connection):
        """Its client has; the worker has a while to end."""
        with self.lock:
            if connection in self.workers:
                self.workers.remove(connection)
                self.leaving.append(connection)
                connection.deadline = client.clock() + GRACE_SECONDS
        self.wake()

    def done(self, connection):
        with self.lock:
            for group in (self.half, self.workers, self.leaving):
                if connection in group:
                    group.remove(connection)

    # -- the thread

    def serve(self):
        while not self.stopped:
            with self.lock:
                if self.once and self.used:
                    self.close_sockets()
                watched = dict([(c.line.fileno(), c) for c in self.workers])
                listening = dict([(sock.fileno(), sock) for sock in self.sockets])
                ends = [c.deadline for c in self.half[:1] + self.leaving]
            poller = select.poll()
            for fd in [self._woken] + list(listening):
                poller.register(fd, select.POLLIN)
            for fd in watched:
                poller.register(fd, GONE)
            for fd, event in client.poll(poller, min(ends) - client.clock() if ends else None):
                if fd == self._woken:
                    os.read(fd, 4096)
                elif fd in listening:
                    self._accept(listening[fd])
                elif fd in watched:
                    self.gone(watched[fd])
            self._enforce()

    def _accept(self, listening):
        try:
            sock, address = listening.accept()
            name = address_text(listening.family, address)
            try:
                connection = self.connection(self, sock, name)
            except EnvironmentError:
                sock.close()
                raise
        except EnvironmentError as e:
            if e.errno in (errno.EMFILE, errno.ENFILE):
                self._drop_oldest("the listener is out of descriptors")
                time.sleep(0.05)  # if that helps nobody, the next look would come at once
            return
        with self.lock:
            self.half.append(connection)
            crowded = len(self.half) > MOST_HALF_OPEN
        if crowded:
            self._drop_oldest("too many clients have not finished the handshake")
        thread = threading.Thread(target=connection.run)
        thread.daemon = True
        try:
            thread.start()
        except Exception:  # RuntimeError, thread.error: no more threads; whoever is here already stays
            self.done(connection)
            connection.drop("")
            sock.close()
            connection.line.close()

    def _drop_oldest(self, why):
        with self.lock:
            oldest = self.half.pop(0) if self.half else None
        if oldest is not None:
            oldest.drop(why)

    def _enforce(self):
        now = client.clock()
        while self.half and self.half[0].deadline <= now:
            self._drop_oldest("no handshake within %d s" % client.HANDSHAKE_SECONDS)
        with self.lock:
            late = [c for c in self.leaving if c.deadline <= now]
            for connection in late:
                self.leaving.remove(connection)
                if connection.process is not None and not connection.over:
                    connection.signal(client.KILL)

    # -- the end

    def close_sockets(self):
        for sock in self.sockets:
            sock.close()
        for path in self.paths:
            try:
                os.unlink(path)
            except OSError:
                pass
        self.sockets, self.paths = [], []

    def stop(self):
        """End all workers and let nobody in."""
        self.stopped = True
        self.wake()
        with self.lock:
            self.close_sockets()
            left = self.half + self.workers + self.leaving
        end = client.clock() + STOP_SECONDS
        for number in (getattr(signal, "SIGTERM", 15), client.KILL):
            for connection in left:
                connection.drop("the listener ends")
                if connection.process is not None and not connection.over:
                    connection.signal(number)
            while client.clock() < end and self.half + self.workers + self.leaving:
                time.sleep(0.01)
        self._guardian.stdin.close()
        self._guardian.wait()


# -- addresses


def address_text(family, address):
    if family == getattr(socket, "AF_UNIX", None):
        return "unix:%s" % (address or "")
    return ("[%s]:%d" if ":" in address[0] else "%s:%d") % tuple(address[:2])


def _is_loopback(host):
    return host == "::1" or host.startswith("127.")


def _listen_unix(listener, path):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.sockets.append(sock)
    try:
        sock.connect(path)
    except EnvironmentError as e:
        if e.errno == errno.ECONNREFUSED:  # left behind by a listener that was killed
            os.unlink(path)
    else:
        raise ValueError("unix:%s: somebody listens there already" % path)
    sock.close()
    listener.sockets[:] = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)]
    mask = os.umask(0o177)
    try:
        listener.sockets[0].bind(path)
    finally:
        os.umask(mask)
    listener.paths.append(path)


def _listen_tcp(listener, host, port):
    found = []
    for family, _, _, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE):
        if (family, address) not in found:
            found.append((family, address))
    for family, address in found:
        if listener.context is None and not _is_loopback(address[0]):
            raise NeedsTls(
                "%s is no loopback address, and without TLS others could read and change what goes there; "
                "give a certificate (--tls-cert FILE --tls-key FILE), or listen on 127.0.0.1" % host
            )
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if not port and listener.sockets:  # localhost is two addresses: the same port on both
                address = (address[0], listener.sockets[0].getsockname()[1]) + tuple(address[2:])
            sock.bind(address)
        except EnvironmentError as e:
            sock.close()
            if e.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) and len(found) > 1:
                continue  # a name with an IPv6 address on a host without IPv6
            raise
        listener.sockets.append(sock)


def _context(tls):
    """(SSL context, SHA-256 of the certificate)."""
    import ssl
    import tempfile

    context = ssl.SSLContext(getattr(ssl, "PROTOCOL_TLS_SERVER", ssl.PROTOCOL_SSLv23))
    if hasattr(context, "minimum_version"):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    else:
        context.options |= ssl.OP_NO_SSLv2 | ssl.OP_NO_SSLv3 | ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    if "pem" in tls:  # made for this listener alone; the ssl module reads files only
        fd, path = tempfile.mkstemp()
        try:
            client.write_all(fd, tls["pem"].encode("ascii"))
            os.close(fd)
            context.load_cert_chain(path)
        finally:
            os.unlink(path)
        text = tls["pem"]
    else:
        context.load_cert_chain(tls["cert"], tls["key"])
        with open(tls["cert"]) as file:
            text = file.read()
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    text = str(text[text.index(begin) : text.index(end) + len(end)])
    return context, hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).digest()


def network():
    """What two processes have in common if 127.0.0.1 is the same for both; '' if that cannot be known."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return str("%s %s" % (file.read().strip(), os.readlink("/proc/self/ns/net")))
    except EnvironmentError:
        return ""


def _chosen_address(home, tls):
    """Where to listen for a client in the network *home*, if it has named no address."""
    if home and home == network():
        return "127.0.0.1"
    if not tls:
        raise NeedsTls("it is on another host")
    reached = os.environ.get("SSH_CONNECTION", "").split()  # client, port, this host, port
    if len(reached) == 4:
        return reached[2]
    raise LookupError("address")


def _execute(code, namespace):
    # Alone in its function: Python 2 refuses exec beside a closure.
    exec(code, namespace)


def main(channel, source, token, address, tls=None, once=False, home="", factory=None):
    """Listen until the channel is closed.  *source* is the text of listen_client.py, *factory* the arguments of main()
    in listen_factory.py, and its text, if workers are to come from a fork server.

    *address* is (host, port), (None, port) for a fitting host, or the path of a Unix socket.  Sends ('listening',
    addresses, hex fingerprint of the certificate) or ('failed', why, 'tls' | 'address' | '').
    """
    listener = None
    _execute(compile(source, "<execgw listen_client.py>", "exec", 0, True), client.__dict__)
    try:
        context, binding = _context(tls) if tls else (None, b"\0" * 32)
        listener = Listener(token.encode("utf-8"), context, binding, once)
        if factory is not None:
            warm = types.ModuleType("warm")
            _execute(compile(factory[0], "<execgw listen_factory.py>", "exec", 0, True), warm.__dict__)
            listener.connection = warm.main(client, *factory[1:])
        if isinstance(address, tuple):
            host, port = address
            _listen_tcp(listener, _chosen_address(home, tls) if host is None else client.native(host), port)
        else:
            _listen_unix(listener, client.native(address))
        for sock in listener.sockets:
            sock.listen(128)
            sock.setblocking(False)
    except NeedsTls as e:
        channel.send(("failed", "%s" % e, "tls"))
    except LookupError:
        channel.send(("failed", "", "address"))
    except (EnvironmentError, ValueError) as e:
        channel.send(("failed", "%s" % (getattr(e, "strerror", None) or e), ""))
    else:
        thread = threading.Thread(target=listener.serve)
        thread.daemon = True
        thread.start()
        addresses = [address_text(sock.family, sock.getsockname()) for sock in listener.sockets]
        fingerprint = "".join(["%02x" % byte for byte in bytearray(binding)]) if tls else ""
        channel.send(("listening", addresses, fingerprint))
        try:
            channel.receive()
        except EOFError:
            pass
    finally:
        if listener is not None:
            listener.stop()

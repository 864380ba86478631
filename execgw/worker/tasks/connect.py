"""via= to a socket: connects from beside this worker and carries the bytes over the channel, both ways.

channel -> socket   bytes; a tuple ends it
socket  -> channel  bytes; (None, why) when it has ended: 'name: ...', 'reach: ...' or 'closed'
"""

import socket
import sys
import threading
import time

PIECE = 64 * 1024


def _stay_alive(sock, seconds):
    """Let the kernel find out within *seconds* that the other host is gone; 0: never."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not seconds:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform.startswith("linux"):
        third = max(int(seconds / 3.0), 1)
        for option, value in ((4, third), (5, third), (6, 3), (18, max(int(seconds * 1000) - 500, 1))):
            # TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_USER_TIMEOUT: Python 2.7 does not know the last
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _connect(target, seconds):
    if not isinstance(target, tuple):
        found = [(socket.AF_UNIX, target if isinstance(target, str) else target.encode("utf-8"))]
    else:
        found = [(one[0], one[4]) for one in socket.getaddrinfo(target[0], target[1], 0, socket.SOCK_STREAM)]
    end = time.time() + seconds
    for left in range(len(found), 0, -1):
        family, address = found[len(found) - left]
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.settimeout(max((end - time.time()) / left, 0.01))
        try:
            sock.connect(address)
            sock.settimeout(None)
            return sock
        except EnvironmentError:
            sock.close()
            if left == 1:
                raise


def _carry_out(sock, channel):
    try:
        while True:
            try:
                data = sock.recv(PIECE)
            except EnvironmentError:
                data = b""
            if not data:
                break
            channel.send(data)
        channel.send((None, "closed"))
    except EnvironmentError:  # the near side has gone, or closed the channel
        pass


def main(channel, target, keepalive, seconds):
    """Run until the socket or the channel is closed."""
    try:
        sock = _connect(target, seconds)
    except (socket.gaierror, UnicodeError) as e:
        channel.send((None, "name: %s" % (getattr(e, "strerror", None) or e)))
        return
    except EnvironmentError as e:
        channel.send((None, "reach: %s" % (e.strerror or e)))
        return
    if isinstance(target, tuple):
        _stay_alive(sock, keepalive)
    out = threading.Thread(target=_carry_out, args=(sock, channel))
    out.daemon = True
    out.start()
    try:
        while True:
            item = channel.receive()
            if isinstance(item, tuple):
                break
            sock.sendall(item)
    except EnvironmentError:  # EOFError: the channel is closed; or the socket is broken, which the thread tells
        pass
    except EOFError:
        pass
    finally:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except EnvironmentError:
            pass
        out.join(1)
        sock.close()

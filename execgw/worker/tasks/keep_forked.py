"""resume= of a factory's workers: the fork server's child becomes the keeper, and forks the worker."""

import os
import signal
import socket
import traceback

from .keep import Keeper
from .keep_front import Link, end_as, hush, listen, read_line, worker_link


class Forked(object):
    """A child of this process, with as much of Popen as a keeper needs."""

    def __init__(self, pid, stderr):
        self.pid = pid
        self.stderr = os.fdopen(stderr, "rb", 0)
        self.code = None

    def poll(self):
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._ended(status)
        return self.code

    def wait(self):
        if self.code is None:
            self._ended(os.waitpid(self.pid, 0)[1])
        return self.code

    def _ended(self, status):
        self.code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def fork_worker(fd):
    """In a process that was forked for a near side, whose link is *fd*.  Returns in the worker, with its own link.

    This process goes on as the keeper, so that the fork server, whose child it is, sees the worker end when it does.
    """
    request = read_line(fd)
    listening = listen(request["id"])
    ours, theirs = worker_link()
    stderr, their_stderr = os.pipe()
    pid = os.fork()
    if not pid:
        os.setsid()
        for sock in (listening, ours):
            sock.close()
        os.dup2(their_stderr, 2)
        for each in (stderr, their_stderr, fd):
            os.close(each)
        return theirs.detach()
    theirs.close()
    os.close(their_stderr)
    front, control = socket.socketpair()  # nobody waits here for how it ends; *front* stays open till then
    link = Link([fd, os.dup(fd), os.dup(2)], control)
    hush()
    keeper = Keeper(request, listening, link)
    keeper.have(Forked(pid, stderr), ours)
    # The fork server's word that the time of its lease is over.
    signal.signal(signal.SIGTERM, lambda number, frame: keeper._signal(signal.SIGTERM))
    try:
        keeper.run()
    except BaseException:
        os.write(link.err, traceback.format_exc().encode("utf-8", "replace"))
        os._exit(1)
    front.close()
    end_as(keeper.code)

"""The life of a fork server: a process without threads that has imported what workers need, and what these become.

It runs in the namespace of boot.py: for_factory() in _bundle.py makes the program.  forks.py is what it does between.
"""

import gc
import json
import os
import select
import signal
import socket
import sys
import types


def _become_worker(server):
    """Undo what is the fork server's, and make what is one process's alone."""
    os.setpgid(0, 0)
    server.forget()
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "random" in sys.modules:
        sys.modules["random"].seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    sys.argv[:] = ["-c"]
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = main


def _wait_for_work(sock, receive):
    """As the spare: (descriptor of the link, whether it is to be kept), or None if the fork server needs it no more."""
    data, descriptors = b"", []
    while True:
        piece, more = receive(sock)
        if not piece:
            break
        data += piece
        descriptors += more
    sock.close()
    if not descriptors:
        return None
    link, stderr = descriptors
    os.dup2(stderr, 2)
    os.close(stderr)
    message = json.loads(data.decode("ascii"))
    for name in message.get("unset", ()):
        os.environ.pop(name, None)
    os.environ.update(message.get("env", {}))
    if message.get("cwd"):
        os.chdir(message["cwd"])
    gc.enable()
    return link, bool(message.get("keep"))


def _preload(names):
    """Import modules; what is wrong, or ''."""
    for name in names:
        try:
            __import__(name)
        except BaseException as e:
            return "preload=%s: %s: %s" % (name, type(e).__name__, e)
    threads = len(sys._current_frames())
    if threads > 1:
        return "preload=%s: that leaves threads running (%d), and a process with threads cannot be forked safely" % (
            ",".join(names),
            threads - 1,
        )
    return ""


def serve_factory(modules, root):
    """The life of a fork server, whose owner's link is descriptor 0.  Returns in the children: what is left to do."""
    shipped = Shipped(modules, root)  # noqa: F821  # of boot.py
    sys.meta_path.insert(0, shipped)
    for package in ("_execgw", "_execgw.wire", "_execgw.peer", "_execgw.worker"):
        shipped.add(package)
    import threading  # noqa: F401  # as most code does that runs in workers

    from _execgw.worker.forks import Link, Server, receive
    from _execgw.worker.serve import main

    sys.meta_path.remove(shipped)
    sys.meta_path.append(shipped)
    sys.path_importer_cache.clear()
    owner = Link(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, os.dup(0)), owner=True)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    os.close(null)
    server = Server(owner)
    poller = select.poll()
    poller.register(owner.sock.fileno(), select.POLLIN)
    messages = []
    while not messages:
        poller.poll()
        messages = owner.read()
        if messages is None:
            return None
    config = messages.pop(0)
    server.limit, server.version = config["limit"], config["version"]
    problem = _preload(config["preload"])
    if problem:
        os.set_blocking(owner.sock.fileno(), True)
        owner.say({"say": "failed", "why": problem})
        return None
    server._say_ready(owner)
    gc.collect()
    gc.disable()  # until the fork: a collection writes to all pages, which are shared from there on
    if hasattr(gc, "freeze"):
        gc.freeze()
    job = server.serve()
    if job is None:
        return None
    _become_worker(server)
    work = _wait_for_work(job, receive)
    if work is None:
        os._exit(0)
    link, keep = work
    if keep:
        from _execgw.worker.keep_forked import fork_worker

        link = fork_worker(link)
    return lambda: main(shipped, link, link)

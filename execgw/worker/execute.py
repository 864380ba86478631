"""Runs one task: compiles the source that came, calls what it names, and ends its channel with how it went."""

import os
import sys

from ..peer.compat import PY2, get_ident
from ..peer.faults import pack_error
from ..wire import codec as values
from ..wire import frames as f
from ..wire.errors import ChannelClosed, GatewayClosed

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Dict, Optional, Tuple  # noqa: F401

    from ..peer.channel import Channel  # noqa: F401
    from ..wire.mux import Port  # noqa: F401

DEADLOCK_TEXT = "concurrent remote_exec would cause deadlock for main_thread_only execmodel"
MOST_COMPILED = 64
OWN_FILES = os.path.dirname(__file__)

# A C function has no frame in which an interrupt may appear (steer.py): this one is no file of ours, for its name, and
# yet left out of tracebacks.
_call = eval(compile("lambda f, a, k: f(*a, **k)", OWN_FILES + ":call", "eval"))

_compiled = {}  # type: Dict[Tuple[str, str], Any]
_sources = {}  # type: Dict[str, str]  # file name -> text, for tracebacks


def _execute(code, namespace):
    # type: (Any, Dict[str, Any]) -> None
    # Alone in its function: Python 2 refuses exec beside a closure.
    exec(code, namespace)


def _code_of(source, filename):
    # type: (str, str) -> Any
    """Compile, remembering the last few: the same code is often run again."""
    key = source, filename
    code = _compiled.get(key)
    _sources[filename] = source  # of code that was compiled before, too: others have had the same name since
    if code is None:
        text = source  # type: Any
        if PY2:  # it takes 8-bit source with this mark for UTF-8
            text = b"\xef\xbb\xbf" + (source if isinstance(source, bytes) else source.encode("utf-8"))
        code = compile(text, filename, "exec", 0, True)
        if len(_compiled) >= MOST_COMPILED:
            _compiled.clear()
        _compiled[key] = code
    return code


def _named(module, path):
    # type: (str, str) -> Any
    __import__(module)
    found = sys.modules[module]
    for name in path.split("."):
        found = getattr(found, name)
    return found


class Task(object):
    """One EXEC: a port, and the value that says what to run.

    The value is text (a source), or (what, source, filename, name, args, kwargs) where `what` is
    'source'    run it;  'function'  and call name(channel, **kwargs)
    'call'      and send name(*args, **kwargs);  'named'  send module.name(*args, **kwargs), where source is the module
    """

    def __init__(self, gateway, port, form, data):
        # type: (Any, Port, int, Any) -> None
        self.gateway = gateway
        self.port = port
        self.form = form
        self.data = data

    def run(self):
        # type: () -> None
        """Run it in this thread; whatever it raises goes to the other side."""
        peer = self.gateway._peer
        with peer.lock:
            channel = self.gateway._channel_of(self.port)
        channel._executing = True
        running = self.gateway.running
        running[channel.id] = get_ident()
        error = b""
        try:
            self._run(channel, peer.codec)
            if peer.turn.thrown:  # an interrupt that was for this code; see steer.py
                peer.turn._throw()
        except (ChannelClosed, GatewayClosed):
            # The other side ended the channel while the code used it: that is how servers on channels end.
            if not self.port.ended:
                error = self._error(peer.codec)
        except BaseException:
            error = self._error(peer.codec)
        for end in self.gateway.at_end:
            end(channel.id)
        with peer.lock:
            del running[channel.id]
        channel._executing = False
        try:
            peer.close(self.port, error)
        except BaseException:  # an asynchronous interrupt that was too late for the user's code
            peer.close(self.port, error)
            peer.control(f.CLOSE, self.port.number, error)

    def refuse(self, why):
        # type: (str) -> None
        """End it without running it."""
        self.gateway._peer.close(self.port, pack_error(self.gateway._peer.codec, why))

    def _run(self, channel, codec):
        # type: (Channel, Any) -> None
        task = codec.decode(self.form, self.data)
        self.data = None
        if not isinstance(task, tuple):
            _execute(_code_of(task, "<remote exec>"), {"channel": channel, "__name__": "__channelexec__"})
            return
        what, source, filename, name, args, kwargs = task
        if PY2:  # takes only its own strings for names
            kwargs = dict([(str(key), kwargs[key]) for key in kwargs])
        if what == "named":
            self._answer(codec, _call(_named(source, name), args, kwargs))
            return
        namespace = {"channel": channel, "__name__": "__channelexec__"}  # type: Dict[str, Any]
        if what == "call":
            del namespace["channel"]
        _execute(_code_of(source, filename), namespace)
        if what == "function":
            namespace[name](channel, **kwargs)
        elif what == "call":
            self._answer(codec, _call(namespace[name], args, kwargs))

    def _answer(self, codec, result):
        # type: (Any, Any) -> None
        form, data = codec.encode(result)
        self.gateway._peer.send(self.port, form, data)

    def _error(self, codec):
        # type: (Any) -> bytes
        try:
            from ..peer.tracebacks import current

            return current(codec, OWN_FILES, _sources)
        except Exception as e:  # memory is out, or the code has broken the interpreter's modules: say what can be said
            return bytes(bytearray([values.TEXT])) + ("%s in an error" % type(e).__name__).encode("ascii")

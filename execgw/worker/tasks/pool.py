"""Executor: runs the calls that come over the channel, one after the other.

(number, key, definition or None, [(args, kwargs), ...])  ->  (number, [result, ...], None or a described exception)

A definition is what remote_exec sends for a function; it comes with the first call of its key.
"""

import importlib
import sys

MOST_FUNCTIONS = 200  # definitions that are kept; the near side forgets in the same order


def _execute(code, namespace):
    # Alone in its function: Python 2 refuses exec beside a closure.
    exec(code, namespace)


def _function(definition):
    what, source, filename, name = definition
    if what == "named":
        found = importlib.import_module(source)
        for part in name.split("."):
            found = getattr(found, part)
        return found
    namespace = {"__name__": "__channelexec__"}
    text = source
    if sys.version_info[0] == 2:  # it takes 8-bit source with this mark for UTF-8
        text = b"\xef\xbb\xbf" + (source if isinstance(source, bytes) else source.encode("utf-8"))
    _execute(compile(text, filename, "exec", 0, True), namespace)
    return namespace[name]


def _fault(channel, sources):
    tracebacks = importlib.import_module(type(channel).__module__.rpartition(".")[0] + ".tracebacks")
    kind, exc, tb = sys.exc_info()
    tracebacks.remember(sources)
    try:
        fault = tracebacks.describe(exc, channel._codec, tb.tb_next or tb)
    finally:
        del tb
    return fault


def main(channel):
    """Until the channel ends."""
    functions = {}
    sources = {}
    for number, key, definition, calls in channel:
        results = []
        fault = None
        try:
            if definition is not None:
                if len(functions) >= MOST_FUNCTIONS:
                    functions.clear()
                functions[key] = _function(definition)
                sources[definition[2]] = definition[1]
            function = functions[key]
            for args, kwargs in calls:
                if sys.version_info[0] == 2:
                    kwargs = dict([(str(name), kwargs[name]) for name in kwargs])
                results.append(function(*args, **kwargs))
        except (Exception, KeyboardInterrupt, SystemExit):
            fault = _fault(channel, sources)
        try:
            channel.send((number, results, fault))
        except ValueError:  # DumpError: a result that cannot travel
            channel.send((number, [], _fault(channel, {})))

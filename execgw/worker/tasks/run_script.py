"""Gateway.run_script: runs a script as `python script.py args` would; what it raises goes to the channel."""

import linecache
import sys
import threading
import types

PY2 = sys.version_info < (3,)


def _execute(code, namespace):
    # Alone in its function: Python 2 refuses exec beside a closure.
    exec(code, namespace)


def main(channel, source, filename, args):
    """Run it; sys.exit() without a code, or with 0, is a good end."""
    argv, worker_main = sys.argv, sys.modules["__main__"]
    module = types.ModuleType("__main__")
    module.__dict__["channel"] = channel
    linecache.cache[filename] = len(source), None, source.decode("utf-8", "replace").splitlines(True), filename
    before = threading.enumerate()
    sys.argv = [str(word) if not PY2 else word.encode("utf-8") for word in [filename] + list(args)]
    sys.modules["__main__"] = module
    try:
        _execute(compile(source, filename, "exec", 0, True), module.__dict__)
        for thread in threading.enumerate():
            if thread not in before and not thread.daemon:
                thread.join()
    except SystemExit as e:
        if e.code not in (None, 0):
            raise
    finally:
        sys.argv = argv
        sys.modules["__main__"] = worker_main

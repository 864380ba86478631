"""For code in a worker: starts further workers beside it, each reached through a channel (execgw.ChannelGateway).

Runs wherever workers run, from Python 2.7 on; the near side serves it there (worker/served.py).
"""

import shlex
import threading

from .worker.tasks import relay

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Dict, List, Tuple  # noqa: F401

READY = "execgw-program"  # then the platform and a line end: what PROGRAM says first

# The program of a worker-to-be: says what it is, reads one line and runs the program that this is the repr() of.
# Jython's own read() of descriptor 0 fails, and that of its file object reads ahead.
PROGRAM = """\
def _():
 import os,sys
 if sys.platform[:4]=='java':
  from java.lang import Class
  from jarray import zeros
  P=Class.forName('org.python.modules.posix.PosixModule').getMethod('getPOSIX',[]).invoke(None,[])
  def r():
   b=zeros(1,'b')
   return b[:max(P.read(0,b,1),0)].tostring()
 else:
  def r():return os.read(0,1)
 sys.stdout.write('%s %%s\\n'%%sys.platform)
 sys.stdout.flush()
 d=b''
 while d[-1:]!=b'\\n':
  c=r()
  if not c:sys.exit(1)
  d+=c
 return eval(d)
exec(_())
""" % (READY,)

# Keys of a spec that are for the near side, which makes the gateway.
NEAR_KEYS = ("id", "execmodel", "start_timeout", "keepalive", "import")


def gatewaymaker(channel):
    # type: (Any) -> None
    """Start a worker for each spec that comes through *channel*, and send back a channel to it, until *channel* ends.

    A spec is text as everywhere: 'popen//python=python3.9//chdir=work'; the worker is a process on this host.  The
    workers go on when this function has ended; they end with their channels, or with this worker.
    """
    for spec in channel:
        sub = channel.gateway.newchannel()
        try:
            options = _read_spec(spec)
        except ValueError as e:
            channel.send(sub)
            sub.close("%s: %s" % (spec, e))
            continue
        sub.send((spec,))
        channel.send(sub)
        thread = threading.Thread(target=_carry, args=(sub, options))
        thread.daemon = True
        thread.start()


def _carry(channel, options):
    # type: (Any, Dict[str, Any]) -> None
    relay.main(channel, **options)  # type: ignore[no-untyped-call]
    channel.close()


def _read_spec(spec):
    # type: (Any) -> Dict[str, Any]
    """What relay.main() is to be told; ValueError for a spec that is none, or no popen."""
    if not isinstance(spec, (str, type(b"".decode()))):
        raise ValueError("a spec is text; send str(spec)")
    found = {}  # type: Dict[str, Any]
    env = {}  # type: Dict[str, str]
    for part in spec.split("//"):
        key, equals, value = part.partition("=")
        if key[:4] == "env:" and equals:
            env[str(key[4:])] = value
        elif key in found:
            raise ValueError("%s is given twice" % (key,))
        else:
            found[key] = value if equals else True
    if found.pop("popen", None) is not True:
        raise ValueError("gatewaymaker starts processes beside this worker; the spec must begin with popen")
    for key in NEAR_KEYS:
        found.pop(key, None)
    words = _words(found.pop("python", None))
    if found.pop("dont_write_bytecode", None):
        words.append("-B")
    cwd, nice = found.pop("chdir", None), found.pop("nice", None)
    if found:
        raise ValueError("unknown here: %s" % ", ".join(sorted(found)))
    argv = words + ["-c", PROGRAM]
    return {"argv": argv, "env": env, "cwd": cwd, "nice": None if nice is None else int(nice)}


def _words(python):
    # type: (Any) -> List[Any]
    """The interpreter; None stands for this worker's own."""
    if python is None:
        return [None]
    words = shlex.split(str(python))
    if not words or words[0].startswith("-"):
        raise ValueError("python=%s names no interpreter" % (python,))
    return list(words)

"""What a worker is made of, ready to ship: the modules of wire/, peer/ and worker/.

for another interpreter:   sources without comments, one zlib block, at most 16 KiB; line numbers stay true
for this very interpreter: the compiled code from the installed .pyc files; nothing is compiled there
"""

from __future__ import annotations

import functools
import importlib.util
import io
import marshal
import os
import re
import tokenize
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePath

HERE = Path(__file__).parent
# In a worker that got execgw from its near side, and is a near side itself now.
IS_SERVED = hasattr(globals()["__loader__"], "served")
if IS_SERVED:
    from importlib.resources import files

    HERE = files(__package__)  # type: ignore[assignment]  # as much of a Path as is used here
# An interpreter whose name contains this word gets these modules of worker/ in place of others, or besides.
FLAVOURS = {
    "jython": {"link": "link_jython"},
    "pyodide": {"link": "link_alone", "alone": "alone"},
}
# These stay here: only the near side distrusts the other.
NOT_SHIPPED = {f"execgw.wire.{module}" for module in ("careful", "guarded", "kept", "kept_mux", "printable")}
NOT_SHIPPED |= {f"execgw.worker.{m}" for new in FLAVOURS.values() for m in new.values()}
# Few workers need these: they are asked for when they are imported there.
ON_DEMAND = {
    "execgw.wire.scan",
    "execgw.wire.trees_old",
    "execgw.wire.refusal",
    "execgw.peer.tracebacks",
    "execgw.wire.buffers",
    "execgw.peer.blocked",
    "execgw.peer.large",
    "execgw.peer.files",
    "execgw.peer.callbacks",
    "execgw.peer.execmodel",
    "execgw.peer.remote",
    "execgw.worker.late_threading",
    "execgw.peer.alive",
    "execgw.worker.logs",
    "execgw.worker.output",
    "execgw.worker.steer",
    "execgw.worker.served",
}

# What is alike next to each other, as far back as zlib looks (32 KiB): measured, it saves 170 bytes; so do smaller
# blocks, 50.  New modules come last, and may be put in a better place.
ORDER = (
    "wire.errors",
    "wire.compat",
    "peer.compat",
    "wire.mux",
    "wire.frames",
    "peer.faults",
    "wire.codec",
    "worker.serve",
    "worker.execute",
    "wire.trees",
    "peer.gateway",
    "peer.peer",
    "peer.channel",
    "peer.pool",
    "peer.turn",
    "worker.keeper",
    "worker.link",
)
MEMORY_LEVEL = 6


@functools.cache
def modules() -> dict[str, Path]:
    """The shipped modules and their files, by their names on the near side."""
    found = {}
    for room in ("wire", "peer", "worker"):
        for path in sorted((HERE / room).iterdir(), key=str):
            stem, _, kind = path.name.partition(".")
            name = f"execgw.{room}.{stem}"
            if kind == "py" and stem not in ("__init__", "boot") and name not in NOT_SHIPPED:
                found[name] = path
    return found


_WORDS = (tokenize.NAME, tokenize.NUMBER, tokenize.STRING)


def strip(source: str) -> str:
    """Remove comments, docstrings, what only mypy reads, and needless spaces; every line stays where it is."""
    source = re.sub(r"^if False:.*\n(?:    .*\n|\n(?=    ))+", lambda m: "\n" * m[0].count("\n"), source, flags=re.M)
    out: list[str] = []
    line = 1
    fresh = True  # at the start of a statement: a string here would be a docstring
    last = tokenize.NEWLINE
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    for number, token in enumerate(tokens):
        kind, text = token.type, token.string
        if kind in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            fresh = fresh or kind in (tokenize.NEWLINE, tokenize.INDENT)
            last = kind if kind != tokenize.COMMENT else last
            continue
        row = token.start[0]
        if kind == tokenize.STRING and fresh and _goes_on(tokens[number + 1 :]):
            continue  # a docstring; where it is all there is, an empty string stays
        if row > line:
            # A backslash joins lines only outside of brackets, and the fence uses none.
            out.append("\n" * (row - line) + " " * ((len(token.line) - len(token.line.lstrip())) // 4))
        elif kind in _WORDS and last in _WORDS:
            out.append(" ")
        out.append("''" if kind == tokenize.STRING and fresh else text)
        line, last, fresh = row if kind == tokenize.STRING and fresh else token.end[0], kind, False
    return "".join(out) + "\n"


def _goes_on(tokens: list[tokenize.TokenInfo]) -> bool:
    """Whether the block has another statement."""
    skipped = (tokenize.NEWLINE, tokenize.NL, tokenize.COMMENT)
    after = next(token for token in tokens if token.type not in skipped)
    return after.type not in (tokenize.DEDENT, tokenize.ENDMARKER)


LOAD_TEXT = "p=[str(t)for t in d.decode('ascii').split('\\0')];b=p.pop(0);m=dict(zip(p[::2],p[1::2]));f='<execgw>'"


def _far(name: str) -> str:
    return "_" + name


@functools.cache  # a worker may ask as often as it likes
def source(far_name: str) -> str:
    """The text of a shipped module, by its name on the far side; KeyError for any other."""
    return strip(modules()[far_name[1:]].read_text("utf-8"))


KEEPING = ("keep", "keep_front", "keep_forked")  # of worker/tasks: what keeps a worker whose link may break


# What the near side looks for when no hello came: the start of what stage 0 says on stderr, or on a terminal.
A_TERMINAL = "execgw: a terminal is between the two sides"
CHANGED = "execgw: the bytes of the near side arrive changed"


# Jython's own read() of descriptor 0 fails, that of its file object reads ahead, and its sys.exit() writes to stdout.
_ON_JYTHON = """\
 from java.lang import Class
 from jarray import zeros
 P=Class.forName('org.python.modules.posix.PosixModule').getMethod('getPOSIX',[]).invoke(None,[])
 def r(n):
  b=zeros(n,'b')
  return b[:max(P.read(0,b,n),0)].tostring()
 def x(t):
  sys.stderr.write(t+'\\n')
  sys.exit(1)
"""
_ELSEWHERE = """\
 if sys.platform[:4]=='java':
  sys.stderr.write('execgw: this is a Jython, which starts in its own way; \\
use a command that has jython in its name: python=/path/of/jython\\n')
  sys.exit(1)
 x=sys.exit
 def r(n):return os.read(0,n)
"""


def _reading(flavour: str) -> str:
    """The lines of a program that define r(size), which reads descriptor 0, and x(text), which gives up."""
    return _ON_JYTHON if flavour == "jython" else _ELSEWHERE


def flavour_of(words: Sequence[str | None], platform: str = "") -> str:
    """The flavour of the bundle for an interpreter's command; *platform* is that of the worker that None stands for."""
    if None in words:
        return "jython" if platform.startswith("java") else ""
    names = [PurePath(word or "").name for word in words]
    return next((flavour for flavour in FLAVOURS if any(flavour in name for name in names)), "")


def _stage0(size: int, load: str, check: str = "", flavour: str = "") -> str:
    """The program of `python -c`: read *size* bytes from descriptor 0, load them, and boot."""
    return (
        "def _():\n"
        " import os,sys\n"
        f"{_reading(flavour)}"
        f"{check}"
        " d=b''\n"
        f" while len(d)<{size}:\n"
        f"  c=r({size}-len(d))\n"
        "  if not c:x('execgw: the near side went away during the start')\n"
        "  d+=c\n"
        f" {load}\n"
        " g={'__name__':'_execgw_boot'}\n"
        " return b,g,m,f\n"
        "_=_()\n"
        "exec(_[0],_[1])\n"
        "_[1]['boot'](_[2],_[3],0,WRITE)\n"
    )


@functools.cache
def for_other(write_fd: int, flavour: str = "") -> tuple[str, bytes]:
    """(program for `python -c`, bytes for its stdin) for any Python from 2.7 on.

    The program refuses a terminal on its way in, and a block whose checksum is wrong; the start marker (wire/frames.py)
    is the same test for the way out.
    """
    order = [f"execgw.{module}" for module in ORDER]
    new = sorted(modules().keys() - ON_DEMAND - set(order))
    shipped = [*order, *new]
    sources = {name: source(name) for name in map(_far, shipped)}
    for name, module in FLAVOURS.get(flavour, {}).items():
        path = HERE / "worker" / f"{module}.py"
        sources[f"_execgw.worker.{name}"] = strip(path.read_text("utf-8"))
    boot = strip((HERE / "worker" / "boot.py").read_text("utf-8"))
    # NUL between texts: repr() and its escapes would cost half a kilobyte.
    parts = [boot, *(text for item in sources.items() for text in item)]
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, MEMORY_LEVEL)
    data = packer.compress("\0".join(parts).encode("ascii")) + packer.flush()
    check = f" if os.isatty(0)or os.isatty({write_fd}):x('{A_TERMINAL}')\n"
    load = f"import zlib\n try:d=zlib.decompress(d)\n except zlib.error:x('{CHANGED}')\n {LOAD_TEXT}"
    return _stage0(len(data), load, check, flavour).replace("WRITE", str(write_fd)), data


@functools.cache
def task(name: str) -> tuple[str, str]:
    """(text, file name) of a module of worker/tasks."""
    path = HERE / "worker" / "tasks" / f"{name}.py"
    return path.read_text("utf-8"), str(path)


@functools.cache
def for_same() -> tuple[str, bytes]:
    """The same for the interpreter that runs here: compiled code, loaded and not compiled."""
    if IS_SERVED:  # what is here was compiled from stripped sources
        return for_other(0)
    code = {}
    rare = {name for name in ON_DEMAND if name.startswith("execgw.worker.")} - {"execgw.worker.late_threading"}
    for name in [*modules(), "execgw.worker.boot"]:
        if name in rare:
            continue
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        code[_far(name)] = marshal.dumps(spec.loader.get_code(name))  # type: ignore[attr-defined]
    boot = code.pop("_execgw.worker.boot")
    data = marshal.dumps((boot, code, str(HERE)))
    program = _stage0(len(data), "import marshal;b,m,f=marshal.loads(d);b=marshal.loads(b)")
    return program.replace("WRITE", "0"), data


def for_factory(life: str, forks: str, same: bool) -> tuple[str, bytes]:
    """(program for `python -c`, bytes for its stdin) of a fork server; the texts are those of worker/tasks.

    It runs in the namespace of boot.py; in each child it returns what that is to do, so that the child's stack is as
    flat as that of any worker.
    """
    program, data = for_same() if same else for_other(1)
    # What the few workers need that outlive their link (resume=), and on this host only.
    shipped = {"worker.forks": forks}
    if same:
        shipped["wire.kept"] = (HERE / "wire" / "kept.py").read_text("utf-8")
        shipped.update({f"worker.{name}": task(name)[0] for name in KEEPING})
    names = [_far(f"execgw.{name}") for name in shipped]
    text = "\0".join(map(strip, (life, *shipped.values()))).encode("ascii")
    tail = (
        f"import os,sys\n_s=b''\nwhile len(_s)<{len(text)}:_s+=os.read(0,{len(text)}-len(_s))or sys.exit(1)\n"
        f"_s=_s.decode('ascii').split('\\0')\n_[2].update(zip({names},_s[1:]))\n_s=_s[0]\n"
        "exec(compile(_s,'<execgw factory.py>','exec'),_[1])\n"
        "_=_[1]['serve_factory'](_[2],_[3])\n"
        "del _s,os,sys\n"
        "_ and _()\n"
    )
    head, _, rest = program.rpartition("_[1]['boot'](")
    assert head and rest.count("\n") == 1
    return head + tail, data + text


@functools.cache
def for_keeper() -> tuple[str, bytes]:
    """(program for `python -c`, bytes for its stdin) of worker/tasks/keep.py, which reads its request behind that."""
    modules = ("wire.errors", "wire.compat", "wire.frames", "wire.kept")
    sources = {f"_execgw.{name}": strip((HERE / f"{name.replace('.', '/')}.py").read_text("utf-8")) for name in modules}
    sources.update({f"_execgw.worker.{name}": strip(task(name)[0]) for name in KEEPING[:2]})
    boot = strip((HERE / "worker" / "boot.py").read_text("utf-8"))
    data = zlib.compress("\0".join([boot, *(text for item in sources.items() for text in item)]).encode("ascii"), 9)
    check = (
        " if sys.version_info<(3,6)or not hasattr(os,'fork')or sys.platform=='emscripten':"
        "x('execgw: resume= needs a CPython or PyPy from 3.6 on, on a POSIX system, and this is '"
        "+sys.version.split()[0]+' on '+sys.platform)\n"
        f" if os.isatty(0):x('{A_TERMINAL}')\n"
    )
    load = f"import zlib\n try:d=zlib.decompress(d)\n except zlib.error:x('{CHANGED}')\n {LOAD_TEXT}"
    head, _, _ = _stage0(len(data), load, check).rpartition("_[1]['boot'](")
    tail = (
        "_[1]['sys'].meta_path.insert(0,_[1]['Shipped'](_[2],_[3]))\n"
        "for p in'_execgw','_execgw.wire','_execgw.worker':_[1]['sys'].meta_path[0].add(p)\n"
        "from _execgw.worker.keep import main\n"
        "main()\n"
    )
    return head + tail, data


# Reads one line from descriptor 0, byte by byte, for what follows is the next program's; then starts that one in the
# surroundings that the line names.  An environment is in force only for an interpreter that starts in it
# (PYTHONHASHSEED), and it may hold secrets, so it must not be in any argv.  Where nothing can be executed (Jython)
# the program runs here.
_LAUNCHER = """\
def _():
 import os,sys
READ
 d=b''
 while d[-1:]!=b'\\n':
  c=r(1)
  if not c:x('execgw: the near side went away during the start')
  d+=c
 e,c,n,p=eval(d)
 getattr(os,'environb',os.environ).update(e)
 try:
  if c:
   if not os.path.isdir(c):os.makedirs(c)
   os.chdir(c)
  if n and hasattr(os,'nice'):os.nice(n)
  elif n and os.system('renice -n %d -p $(ls /proc/%d/task)>/dev/null'%(n,os.getpid())):x('execgw: nice=%r failed'%n)
 except OSError:
  x('execgw: chdir=%r nice=%r: %s'%(c,n,sys.exc_info()[1]))
 if sys.executable and hasattr(os,'execv')and sys.platform!='emscripten':
  import subprocess
  os.execv(sys.executable,[sys.executable]+subprocess._args_from_interpreter_flags()+['-c',p])
 return p
exec(_())
"""


def in_surroundings(
    program: str, env: dict[str, str], chdir: str | None, nice: int | None, flavour: str = ""
) -> tuple[str, bytes]:
    """(program, bytes before those of *program*): the same, with env, directory and niceness applied first."""
    if not (env or chdir or nice):
        return program, b""
    pairs = {os.fsencode(name): os.fsencode(value) for name, value in env.items()}
    line = repr((pairs, os.fsencode(chdir) if chdir else None, nice, program))
    return _LAUNCHER.replace("READ\n", _reading(flavour)), line.encode("ascii") + b"\n"

"""What a worker is made of, ready to ship: the modules of wire/, peer/ and worker/.

    for another interpreter:   sources without comments, one zlib block, at most 16 KiB; line numbers stay true
    for this very interpreter: the compiled code from the installed .pyc files; nothing is compiled there
"""

from __future__ import annotations

import functools
import importlib.util
import io
import marshal
import tokenize
import zlib
from pathlib import Path

HERE = Path(__file__).parent
# wire/careful.py stays here: only the near side decodes what it does not trust.
NOT_SHIPPED = {"execgw.wire.careful"}
# Few workers need these: they are asked for when they are imported there.
ON_DEMAND = {
    "execgw.wire.scan",
    "execgw.wire.refusal",
    "execgw.peer.tracebacks",
    "execgw.wire.buffers",
    "execgw.peer.files",
    "execgw.peer.callbacks",
    "execgw.peer.execmodel",
}


@functools.cache
def modules() -> dict[str, Path]:
    """The shipped modules and their files, by their names on the near side."""
    found = {}
    for room in ("wire", "peer", "worker"):
        for path in sorted((HERE / room).glob("*.py")):
            name = f"execgw.{room}.{path.stem}"
            if path.stem not in ("__init__", "boot") and name not in NOT_SHIPPED:
                found[name] = path
    return found


def strip(source: str) -> str:
    """Remove comments and docstrings and narrow the indentation; every line stays where it is."""
    lines = source.splitlines()
    fresh = True  # whether a string here would be a docstring
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        (row, column), (end_row, end_column) = token.start, token.end
        if token.type == tokenize.COMMENT:
            lines[row - 1] = lines[row - 1][:column]
        elif token.type == tokenize.STRING and fresh:
            lines[row - 1] = lines[row - 1][:column] + "''"
            lines[row:end_row] = [""] * (end_row - row)
        if token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            fresh = True
        elif token.type not in (tokenize.NL, tokenize.COMMENT):
            fresh = False
    narrow = [" " * ((len(line) - len(line.lstrip())) // 4) + line.strip() for line in lines]
    return "\n".join(narrow) + "\n"


def _far(name: str) -> str:
    return "_" + name


def source(far_name: str) -> str:
    """The text of a shipped module, by its name on the far side; KeyError for any other."""
    return strip(modules()[far_name[1:]].read_text("utf-8"))


def _stage0(size: int, load: str) -> str:
    """The program of `python -c`: read *size* bytes from descriptor 0, load them, and boot."""
    return (
        "def _():\n"
        " import os,sys\n"
        " d=b''\n"
        f" while len(d)<{size}:\n"
        f"  c=os.read(0,{size}-len(d))\n"
        "  if not c:sys.exit('execgw: the near side went away during the start')\n"
        "  d+=c\n"
        f" {load}\n"
        " g={'__name__':'_execgw_boot'}\n"
        " return b,g,m,f\n"
        "_=_()\n"
        "exec(_[0],_[1])\n"
        "_[1]['boot'](_[2],_[3],0,WRITE)\n"
    )


@functools.cache
def for_other(write_fd: int) -> tuple[str, bytes]:
    """(program for `python -c`, bytes for its stdin) for any Python from 2.7 on."""
    sources = {name: "" if name[1:] in ON_DEMAND else source(name) for name in map(_far, modules())}
    files = {_far(name): f"<execgw>/{path.parent.name}/{path.name}" for name, path in modules().items()}
    boot = strip((HERE / "worker" / "boot.py").read_text("utf-8"))
    data = zlib.compress(repr((boot, sources, files)).encode("ascii"), 9)
    program = _stage0(len(data), "import zlib;b,m,f=eval(zlib.decompress(d))")
    return program.replace("WRITE", str(write_fd)), data


@functools.cache
def for_same() -> tuple[str, bytes]:
    """The same for the interpreter that runs here: compiled code, loaded and not compiled."""
    code = {}
    for name in [*modules(), "execgw.worker.boot"]:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        code[_far(name)] = marshal.dumps(spec.loader.get_code(name))  # type: ignore[attr-defined]
    files = {_far(name): str(path) for name, path in modules().items()}
    boot = code.pop("_execgw.worker.boot")
    data = marshal.dumps((boot, code, files))
    program = _stage0(len(data), "import marshal;b,m,f=marshal.loads(d);b=marshal.loads(b)")
    return program.replace("WRITE", "0"), data

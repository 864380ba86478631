"""The rules of the house that a machine can check: floors, the fence, sizes, first lines.  Under one second."""

from __future__ import annotations

import ast
import configparser
import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import execgw

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "execgw"
FENCE = ("wire", "peer", "worker", "service.py")
LONGEST = 450

OURS = sorted(PACKAGE.rglob("*.py"))
WRITTEN = sorted(path for room in ("execgw", "testing", "examples") for path in (ROOT / room).rglob("*.py"))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _floors() -> list[list[str]]:
    """The layers of setup.cfg, from the top down."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["importlinter:contract:floors"]["layers"].split("\n")
    return [re.split(r"\s*[|:]\s*", line.strip()) for line in lines if line.strip()]


@functools.cache
def _nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text("utf-8"))))


@functools.cache
def _imports(path: Path) -> list[tuple[int, str, bool]]:
    """(line, absolute module name, whether it runs) of every import; those under TYPE_CHECKING do not run."""
    return list(_find_imports(path))


def _find_imports(path: Path) -> Iterator[tuple[int, str, bool]]:
    here = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    idle: set[ast.AST] = set()
    for node in _nodes(path):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "False"):
            idle.update(inner for statement in node.body for inner in ast.walk(statement))
    for node in _nodes(path):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, node not in idle
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = PACKAGE.parent / Path(*module.split(".")) / alias.name
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                yield node.lineno, f"{module}.{alias.name}" if is_module else module, node not in idle


def test_no_file_is_longer_than_one_can_read_at_a_sitting() -> None:
    sizes = {_name(path): len(path.read_text("utf-8").splitlines()) for path in WRITTEN}

    too_long = {name: size for name, size in sizes.items() if size > LONGEST}

    assert too_long == {}


def test_the_first_line_of_every_file_says_what_it_is() -> None:
    silent = []

    for path in WRITTEN:
        first = path.read_text("utf-8").split("\n", 1)[0]
        if not re.match(r'(r?"""|# ?)[^"\s!]\S* \S+', first):
            silent.append(f"{_name(path)}: {first!r}")

    assert silent == []


def test_nobody_inside_imports_the_package_itself() -> None:
    from_inside = [
        f"{_name(path)}:{line}"
        for path in OURS
        if path != PACKAGE / "__main__.py"
        for line, module, runs in _imports(path)
        if runs and module == "execgw"
    ]

    # The plugin of pytest-xdist is a user of the package: it puts it where `import execnet` finds it.
    assert [place for place in from_inside if not place.startswith("execgw/xdist.py")] == []


def test_imports_only_go_down() -> None:
    floor_of = {room: height for height, rooms in enumerate(reversed(_floors())) for room in rooms}
    upward = []

    for path in OURS:
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if room == "__init__":
            continue
        for line, module, runs in _imports(path):
            parts = module.split(".")
            if not runs or parts[0] != "execgw" or len(parts) < 2 or parts[1] in (room, "_version"):
                continue
            if floor_of[parts[1]] >= floor_of[room]:
                upward.append(f"{_name(path)}:{line} imports {module}")

    assert upward == []


def test_every_room_has_a_floor() -> None:
    rooms = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in OURS}

    homeless = rooms - {room for rooms in _floors() for room in rooms} - {"__init__", "_version"}

    assert homeless == set()


def test_the_fence_needs_nothing_but_the_standard_library() -> None:
    optional = {"numpy"}  # used where it is there
    renamed = {"thread", "Queue", "cPickle", "__builtin__"}  # their names in Python 2
    ours = {"execgw", "_execgw"}  # here and there
    jythons = {"java", "jarray"}  # used where it is a Jython
    known = {*sys.stdlib_module_names, *optional, *renamed, *ours, *jythons}
    foreign = []

    for path in OURS:
        if path.relative_to(PACKAGE).parts[0] not in FENCE:
            continue
        for line, module, runs in _imports(path):
            top = module.partition(".")[0]
            if runs and top not in known:
                foreign.append(f"{_name(path)}:{line} imports {module}")
            if runs and top == "execgw" and module.split(".")[1] not in FENCE:
                foreign.append(f"{_name(path)}:{line} imports {module}, which stays on the near side")

    assert foreign == []


def _python2() -> list[Path]:
    given = os.environ.get("EXECGW_PYTHONS", "").split(":")
    found = [Path(name) for name in given if "2.7" in name]
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return [path for path in [*found, *sorted(root.glob("versions/2.7*/bin/python"))] if path.exists()]


def test_the_fence_compiles_under_the_grammar_of_python_2() -> None:
    files = [path for path in OURS if path.relative_to(PACKAGE).parts[0] in FENCE]
    modern = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.AsyncFunctionDef, ast.Nonlocal, ast.YieldFrom)
    new = [  # what the parser of Python 3 can tell by itself, where no Python 2.7 is at hand
        f"{_name(path)}:{getattr(node, 'lineno', 0)} {type(node).__name__}"
        for path in files
        for node in _nodes(path)
        if isinstance(node, modern)
        or (isinstance(node, ast.arg) and node.annotation is not None)
        or (isinstance(node, ast.arguments) and node.kwonlyargs)
    ]
    assert new == []

    for python in _python2()[:1]:
        program = "import sys\nfor name in sys.argv[1:]: compile(open(name).read(), name, 'exec', 0, True)"
        done = subprocess.run([python, "-S", "-c", program, *files], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_no_test_sleeps() -> None:
    scripts = [ROOT / "testing" / "soak", ROOT / "testing" / "bench"]  # no tests: they run by the clock
    sleepers = []

    for path in (ROOT / "testing").rglob("*.py"):
        if path.parent in scripts:
            continue
        for node in _nodes(path):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and ast.unparse(called) in ("time.sleep", "asyncio.sleep"):
                sleepers.append(f"{_name(path)}:{node.lineno}")

    assert sleepers == []


def test_every_silenced_rule_carries_its_code() -> None:
    bare = re.compile(r"#\s*type:\s*ignore\s*($|[^\[\s])|#\s*noqa(?!:\s*[A-Z]+\d)")
    found = []

    for path in WRITTEN:
        if path != Path(__file__):
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                if bare.search(line):
                    found.append(f"{_name(path)}:{number} {line.strip()}")

    assert found == []


@pytest.mark.parametrize("name", [name for name in execgw.__all__ if not name.startswith("__")])
def test_every_public_name_has_a_docstring(name: str) -> None:
    public = getattr(execgw, name)
    named_by_text = isinstance(public, execgw.Group)  # an instance: its class says what it is

    assert (type(public) if named_by_text else public).__doc__

    if isinstance(public, type):
        for attribute, value in vars(public).items():
            if not attribute.startswith("_") and callable(value) and not isinstance(value, type):
                assert value.__doc__, f"{name}.{attribute} has no docstring"


def test_what_few_scripts_need_is_imported_when_it_is_first_asked_for() -> None:
    late = ["asyncio", "importlib.metadata", "execgw.rsync", "execgw.venv", "execgw.executor"]
    program = f"import sys, execgw; print([name for name in {late} if name in sys.modules]); execgw.RSync"

    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert told.stdout == "[]\n"

"""What remote_exec and call are given -> the task that travels: text, functions, modules, importable names."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib.util
import inspect
import linecache
import sys
import sysconfig
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

# (what, source, file name, name, args, kwargs); see worker/execute.py.  A str alone is a source to run.
Task = tuple[str, str, str, str, tuple[Any, ...], dict[str, Any]]

# The module of the built-in functions has another name on Python 2.
BUILTIN = """try:
    import builtins
except ImportError:
    import __builtin__ as builtins
builtin = builtins.{}
"""


def exec_task(source: object, kwargs: dict[str, Any]) -> Task | str:
    """The task of gw.remote_exec(source, **kwargs)."""
    if isinstance(source, types.ModuleType):
        _no_kwargs(source, kwargs)
        text, filename = _module_source(source)
        return "source", text, filename, "", (), {}
    if isinstance(source, types.FunctionType):
        text, filename = _function_source(source, channel=True)
        return "function", text, filename, source.__name__, (), kwargs
    if isinstance(source, (str, bytes)):
        _no_kwargs(source, kwargs)
        return textwrap.dedent(source if isinstance(source, str) else source.decode("utf-8"))
    raise TypeError(
        f"remote_exec takes source text, a function whose first argument is `channel`, or a module, not {source!r}"
    )


def takes(source: object, name: str) -> bool:
    """Whether *source* is a function with an argument of that name."""
    return isinstance(source, types.FunctionType) and name in inspect.signature(source).parameters


def call_task(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Task:
    """The task of gw.call(func, *args, **kwargs): by name if the far side can import it, else by its source."""
    if _importable_there(func):
        module = _public(func)
        if module == "builtins":
            return "call", BUILTIN.format(func.__qualname__), "<builtins>", "builtin", args, kwargs
        return "named", module, "", func.__qualname__, args, kwargs
    if not isinstance(func, types.FunctionType):
        raise TypeError(
            f"call takes a function: {func!r} is neither one with source nor a name that another Python can import"
        )
    text, filename = _function_source(func, channel=False)
    return "call", text, filename, func.__name__, args, kwargs


def _no_kwargs(source: object, kwargs: dict[str, Any]) -> None:
    if kwargs:
        raise TypeError(f"arguments ({', '.join(kwargs)}) go with a function; {type(source).__name__} takes none")


def _home(func: Callable[..., Any]) -> str | None:
    """The module that a function says it is of."""
    owner = getattr(func, "__self__", None)
    return owner.__name__ if isinstance(owner, types.ModuleType) else getattr(func, "__module__", None)


def _found(module: str, path: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def _public(func: Callable[..., Any]) -> str:
    """The module to import a function from: `operator` for what says that it is of `_operator`, as others may not."""
    module = _home(func) or ""
    public = module.lstrip("_")
    return public if _found(public, func.__qualname__) is func else module


def _importable_there(func: Callable[..., Any]) -> bool:
    """Whether any Python has it under the same name: a built-in or standard library function."""
    name = getattr(func, "__qualname__", None)
    module = _home(func)
    if not name or not module or "<" in name:
        return False
    if module.partition(".")[0] not in sys.stdlib_module_names or module == "__main__":
        return False
    found = _found(module, name)
    return found is func or (found == func and found is not None)


def _module_source(module: types.ModuleType) -> tuple[str, str]:
    filename = inspect.getsourcefile(module)
    if filename is None:
        raise ValueError(f"{module!r} has no source file")
    linecache.checkcache(filename)  # what the file says now, not what it said when it was first shown
    return "".join(linecache.getlines(filename, vars(module))), filename


@functools.lru_cache(256)
def _function_source(func: types.FunctionType, channel: bool) -> tuple[str, str]:
    """The source of a function, padded so that its line numbers are those of its file."""
    if func.__name__ == "<lambda>":
        raise ValueError("a lambda cannot be sent: its source cannot be found; write a def")
    if channel and (func.__code__.co_argcount == 0 or func.__code__.co_varnames[0] != "channel"):
        raise ValueError(f"the first argument of {func.__name__!r} must be called `channel`")
    if func.__closure__:
        names = ", ".join(func.__code__.co_freevars)
        raise ValueError(f"function {func.__name__!r} uses {names} of the function around it; pass it as an argument")
    try:
        lines, first = inspect.getsourcelines(func)
    except (OSError, TypeError) as e:
        raise ValueError(f"cannot find the source of {func.__name__!r}: {e}") from e
    text = textwrap.dedent("".join(lines))
    try:
        tree = ast.parse(text)
    except SyntaxError as e:
        raise ValueError(f"the source of {func.__name__!r} cannot be cut out of its file: {e}") from e
    definition = tree.body[0]
    if not isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef)):
        raise ValueError(f"function {func.__name__!r} is not made by a plain def; write one")
    source, skipped = _plain(definition, text)
    missing = _globals_of(compile(source, func.__code__.co_filename, "exec", dont_inherit=True))
    if missing:
        raise ValueError(_explain(func, missing))
    return "\n" * (first - 1 + skipped) + source, inspect.getsourcefile(func) or "<unknown>"


def _plain(definition: ast.FunctionDef | ast.AsyncFunctionDef, text: str) -> tuple[str, int]:
    """The source without decorators and annotations, which are of no use there and name what is not sent."""
    lines = text.splitlines(keepends=True)
    cuts: list[tuple[int, int, int, int, str]] = []
    _find_annotations(definition, lines, cuts)
    for row, column, end_row, end_column, instead in sorted(cuts, reverse=True):
        head = lines[row - 1].encode()[:column].decode()
        tail = lines[end_row - 1].encode()[end_column:].decode()
        gap = "\\\n" * (end_row - row)
        lines[row - 1 : end_row] = (head + instead + gap + tail).splitlines(keepends=True)
    skipped = definition.lineno - 1
    return "".join(lines[skipped:]), skipped


def _find_annotations(node: ast.AST, lines: list[str], cuts: list[tuple[int, int, int, int, str]]) -> None:
    """The places (row, column, end row, end column, what to put there) of annotations in a function; not in a class,
    where they may mean something."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        _find_signature(node, lines, cuts)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.AnnAssign) and not isinstance(node, ast.ClassDef):
            name, note = child.target, child.annotation
            if child.value is None:
                cuts.append((*_start(child), *_end(child), "pass"))
            else:
                cuts.append((*_end(name), *_end(note), ""))
        else:
            _find_annotations(child, lines, cuts)


def _find_signature(
    node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str], cuts: list[tuple[int, int, int, int, str]]
) -> None:
    given = node.args
    stars = [star for star in (given.vararg, given.kwarg) if star is not None]
    for argument in [*given.posonlyargs, *given.args, *given.kwonlyargs, *stars]:
        if argument.annotation is not None:
            row, column = _start(argument)
            cuts.append((row, column + len(argument.arg.encode()), *_end(argument.annotation), ""))
    if node.returns is not None:
        # From the `->` before the annotation to its end.
        row, column = _start(node.returns)
        while "->" not in _slice(lines, row, column, *_end(node.returns)):
            before = lines[row - 1].encode()[:column].rfind(b"->")
            if before >= 0:
                column = before
            else:
                row, column = row - 1, len(lines[row - 2].encode())
        cuts.append((row, column, *_end(node.returns), ""))


def _start(node: ast.expr | ast.stmt | ast.arg) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _end(node: ast.expr | ast.stmt | ast.arg) -> tuple[int, int]:
    return node.end_lineno or node.lineno, node.end_col_offset or node.col_offset


def _slice(lines: list[str], row: int, column: int, end_row: int, end_column: int) -> str:
    if row == end_row:
        return lines[row - 1].encode()[column:end_column].decode()
    return lines[row - 1].encode()[column:].decode()


_READS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")


def _globals_of(module: types.CodeType) -> list[str]:
    """The global names that code uses without making them, and that are no built-ins, as its compiled form says it."""
    import dis

    read: dict[str, None] = {}
    made = {"channel", "__name__"}
    todo = [(module, True)]
    while todo:
        code, outermost = todo.pop()
        own = {"__module__", "__qualname__", "__annotations__"}  # names of a class body
        names: list[str] = []
        for instruction in dis.get_instructions(code):
            if instruction.opname == "STORE_GLOBAL" or (outermost and instruction.opname == "STORE_NAME"):
                made.add(instruction.argval)
            elif instruction.opname == "STORE_NAME":
                own.add(instruction.argval)
            elif instruction.opname in _READS:
                names.append(instruction.argval)
        read.update(dict.fromkeys(name for name in names if name not in own))
        todo.extend((const, False) for const in code.co_consts if isinstance(const, types.CodeType))
    return [name for name in read if name not in made and not hasattr(builtins, name)]


def _explain(func: types.FunctionType, missing: list[str]) -> str:
    """Why a function that uses globals cannot be sent, and what to write instead."""
    advice = []
    for name in missing:
        value = func.__globals__.get(name)
        if isinstance(value, types.ModuleType):
            line = f"import {value.__name__}" + (f" as {name}" if value.__name__.partition(".")[0] != name else "")
            advice.append(f"put `{line}` inside the function" + _where(value.__name__))
        elif callable(value) and _importable_there(value):
            advice.append(f"put `from {_public(value)} import {value.__qualname__}` inside the function")
        elif name in func.__globals__:
            advice.append(f"pass {name!r} as an argument" if not callable(value) else f"define {name!r} inside it")
        else:
            advice.append(f"{name!r} is not defined here either")
    where = f"{func.__code__.co_filename}:{func.__code__.co_firstlineno}"
    return (
        f"function {func.__name__!r} ({where}) uses globals that are not sent with it: {', '.join(missing)}; "
        f"{'; '.join(advice)}"
    )


def _where(module: str) -> str:
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return ""
    spec = importlib.util.find_spec(top)
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    installed = origin is not None and str(origin).startswith(sysconfig.get_path("purelib"))
    return " (it must be installed there)" if installed else " (it must be importable there)"

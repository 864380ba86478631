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


def call_task(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Task:
    """The task of gw.call(func, *args, **kwargs): by name if the far side can import it, else by its source."""
    if _importable_there(func):
        module = func.__module__
        if isinstance(getattr(func, "__self__", None), types.ModuleType):
            module = func.__self__.__name__  # type: ignore[attr-defined]
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


def _importable_there(func: Callable[..., Any]) -> bool:
    """Whether any Python has it under the same name: a built-in or standard library function."""
    name = getattr(func, "__qualname__", None)
    module = getattr(func, "__module__", None)
    owner = getattr(func, "__self__", None)
    if isinstance(owner, types.ModuleType):
        module = owner.__name__
    if not name or not module or "<" in name:
        return False
    if module.partition(".")[0] not in sys.stdlib_module_names or module == "__main__":
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
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
    plain = _plain(definition, text)
    missing = _globals_of(func.__code__)
    if missing:
        raise ValueError(_explain(func, missing))
    skipped = plain[1]
    return "\n" * (first - 1 + skipped) + plain[0], inspect.getsourcefile(func) or "<unknown>"


def _plain(definition: ast.FunctionDef | ast.AsyncFunctionDef, text: str) -> tuple[str, int]:
    """The source without decorators and annotations, which are of no use there and name what is not sent."""
    lines = text.splitlines(keepends=True)
    cuts: list[tuple[int, int, int, int]] = []
    arguments = definition.args
    for argument in [
        *arguments.posonlyargs,
        *arguments.args,
        *arguments.kwonlyargs,
        *filter(None, [arguments.vararg, arguments.kwarg]),
    ]:
        note = argument.annotation
        if note is not None and note.end_lineno is not None and note.end_col_offset is not None:
            cuts.append(
                (argument.lineno, argument.col_offset + len(argument.arg), note.end_lineno, note.end_col_offset)
            )
    if definition.returns is not None:
        # From the `)` of the signature to the end of the annotation.
        note = definition.returns
        end = (note.end_lineno or note.lineno, note.end_col_offset or note.col_offset)
        row, column = note.lineno, note.col_offset
        while "->" not in _slice(lines, row, column, *end):
            before = lines[row - 1].encode()[:column].rfind(b"->")
            if before >= 0:
                column = before
            else:
                row, column = row - 1, len(lines[row - 2].encode())
        cuts.append((row, column, *end))
    for row, column, end_row, end_column in sorted(cuts, reverse=True):
        head = lines[row - 1].encode()[:column].decode()
        tail = lines[end_row - 1].encode()[end_column:].decode()
        gap = "\\\n" * (end_row - row) if end_row > row else ""
        lines[row - 1 : end_row] = (head + gap + tail).splitlines(keepends=True)
    skipped = definition.lineno - 1
    return "".join(lines[skipped:]), skipped


def _slice(lines: list[str], row: int, column: int, end_row: int, end_column: int) -> str:
    if row == end_row:
        return lines[row - 1].encode()[column:end_column].decode()
    return lines[row - 1].encode()[column:].decode()


def _globals_of(code: types.CodeType) -> list[str]:
    """The global names that a function's body uses and that are no built-ins, as its compiled code says it."""
    import dis

    found: list[str] = []
    todo = [code]
    while todo:
        current = todo.pop()
        stored = set()
        for instruction in dis.get_instructions(current):
            if instruction.opname == "STORE_GLOBAL":
                stored.add(instruction.argval)
            elif instruction.opname == "LOAD_GLOBAL" or (
                instruction.opname == "LOAD_NAME" and instruction.argval not in current.co_names[:3]
            ):
                name = instruction.argval
                if not hasattr(builtins, name) and name not in stored and name not in found:
                    found.append(name)
        todo.extend(const for const in current.co_consts if isinstance(const, types.CodeType))
    return [name for name in found if name not in ("__name__", "channel")]


def _explain(func: types.FunctionType, missing: list[str]) -> str:
    """Why a function that uses globals cannot be sent, and what to write instead."""
    advice = []
    for name in missing:
        value = func.__globals__.get(name)
        if isinstance(value, types.ModuleType):
            line = f"import {value.__name__}" + (f" as {name}" if value.__name__.partition(".")[0] != name else "")
            advice.append(f"put `{line}` inside the function" + _where(value.__name__))
        elif callable(value) and _importable_there(value):
            advice.append(f"put `from {value.__module__} import {value.__qualname__}` inside the function")
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

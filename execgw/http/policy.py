"""What clients may start: specs that the operator has named in a TOML file.

    default = "python"

    [specs.python]
    python = ["/usr/bin/python3.11"]        # the words of a command, or one text that is split as a shell would
    chdir = "/srv/work"
    env = { LANG = "C.UTF-8" }
    nice = 5
    tokens = ["laptop"]                     # who may start it; without this: each token with the scope popen
    limits = { memory = "512 MiB", cpu = "10 min" }

    [limits]                                # of each process, where its spec says nothing else
    [server]                                # of the server, see ServerLimits

A client says a name, and nothing else of it: each key of a spec that it sends is refused, unless the policy says
raw = true.
"""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import SpecError
from ..spec import XSpec
from .access import NAME, Caller, Denied
from .limits import Limits, ServerLimits, read_limits

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SPEC_KEYS = ("python", "chdir", "env", "nice", "execmodel", "dont_write_bytecode")
OWN_KEYS = ("tokens", "limits", "about")
TOP_KEYS = ("default", "raw", "origins", "specs", "limits", "server")
MODELS = ("thread", "main_thread_only")
RAW = "raw"  # the name of what a client has put together itself


@dataclass(frozen=True)
class Start:
    """What is to be started: the text of a popen spec, and the limits of the process."""

    name: str
    spec: str
    limits: Limits


@dataclass(frozen=True)
class Named:
    """A spec of the operator's."""

    start: Start
    tokens: frozenset[str] | None = None
    about: str = ""

    def is_for(self, caller: Caller) -> bool:
        """Whether that one may start it."""
        return self.tokens is None or caller.name in self.tokens


@dataclass(frozen=True)
class Policy:
    """The operator's file, understood; Policy() is what holds without one: this interpreter, no raw specs.

    origins  pages of other hosts that may open WebSockets, as 'https://host:port'
    """

    specs: Mapping[str, Named] = field(
        default_factory=lambda: {"python": Named(Start("python", "popen", Limits()), about="the server's own Python")}
    )
    default: str = "python"
    raw: bool = False
    limits: Limits = field(default_factory=Limits)
    server: ServerLimits = field(default_factory=ServerLimits)
    origins: frozenset[str] = frozenset()

    def offered(self, caller: Caller) -> dict[str, str]:
        """The names that *caller* may start, with what the operator says about each."""
        return {name: named.about for name, named in self.specs.items() if named.is_for(caller)}

    def choose(self, body: Mapping[str, Any], caller: Caller) -> Start:
        """What a request's body asks for.  Raises Denied: 403 what the policy does not allow, 400 what is no spec.

        Keys of *body* that say nothing about the process are not looked at.
        """
        caller.need("popen")
        asked = {key: body[key] for key in SPEC_KEYS if body.get(key) is not None}
        name = body.get("spec")
        if name is not None and not isinstance(name, str):
            raise Denied(400, "request", f"spec is a name, and not {name!r:.60}")
        if asked and not self.raw:
            raise Denied(
                403,
                "policy",
                f"this server starts what its operator has named, and takes no {', '.join(map(repr, asked))} from a "
                f"client; {self._say(caller)}",
            )
        if asked or (self.raw and name in (None, RAW) and self.default == RAW):
            if name not in (None, RAW):
                raise Denied(400, "request", f"give a spec's name or {', '.join(asked)}, not both")
            try:
                return Start(RAW, build(asked, "the request"), self.limits)
            except SpecError as e:
                raise Denied(400, "request", str(e)) from e
        return self._named(self.default if name is None else name, caller).start

    def _named(self, name: str, caller: Caller) -> Named:
        found = self.specs.get(name)
        if found is None or not found.is_for(caller):  # the same words for both: what there is for others is not told
            near = difflib.get_close_matches(name, self.offered(caller), 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            what = f"there is no spec {name!r:.80} for the token {caller.name!r}"
            raise Denied(403, "policy", f"{what}; {hint}{self._say(caller)}")
        return found

    def _say(self, caller: Caller) -> str:
        names = ", ".join(self.offered(caller))
        return f"it may start: {names}" if names else "there is none that it may start"


def build(keys: Mapping[str, Any], where: str) -> str:
    """The text of a popen spec with these keys.  SpecError for what is none, or would mean more than it says.

    A value that holds '//' would be read as a further key; so the text is read again, and must mean the same.
    """
    wanted = XSpec("popen")
    env = keys.get("env") or {}
    if not isinstance(env, Mapping):
        raise SpecError(f"{where}: env is a table of names and texts, and not {env!r:.60}")
    for name, value in env.items():
        _check_text(f"{where}: env.{name}", value, empty=True)
        if not name or "=" in name or "\0" in name:
            raise SpecError(f"{where}: {name!r} is no name of an environment variable")
    wanted.env = dict(env)
    values = {key: _value(key, keys[key], f"{where}: {key}") for key in SPEC_KEYS if key != "env" and key in keys}
    made = wanted.changed(**{key: value for key, value in values.items() if value is not False})
    text = str(made)
    try:
        same = _meaning(XSpec(text)) == _meaning(made)
    except SpecError:
        same = False
    if not same:
        raise SpecError(f"{where}: '//' separates the keys of a spec, and cannot be in a value")
    return text


def _meaning(spec: XSpec) -> dict[str, object]:
    return {"env": spec.env, **{key: getattr(spec, key) for key in spec.keys()}}  # noqa: SIM118  # it is no dict


def _value(key: str, value: Any, where: str) -> Any:
    """The value of one key, as a spec has it."""
    if key == "python":
        return _python(value, where)
    if key == "dont_write_bytecode":
        if not isinstance(value, bool):
            raise SpecError(f"{where} is true or false, and not {value!r:.60}")
        return value
    if key == "nice":
        if not isinstance(value, int) or isinstance(value, bool) or not -20 <= value <= 19:
            raise SpecError(f"{where} is a number from -20 to 19, and not {value!r:.60}")
        return str(value)
    _check_text(where, value)
    if key == "execmodel" and value not in MODELS:
        raise SpecError(f"{where} is one of {', '.join(MODELS)}, and not {value!r:.60}")
    return value


def _python(value: Any, where: str) -> str:
    if isinstance(value, str):
        _check_text(where, value)
        try:
            words = shlex.split(value)
        except ValueError as e:
            raise SpecError(f"{where}: {value!r:.60}: {e}") from e
    else:
        words = value
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise SpecError(f"{where} is a command, as a text or a list of words, and not {value!r:.60}")
    for word in words:
        _check_text(where, word)
    if words[0].startswith("-"):
        raise SpecError(f"{where}: {words[0]!r:.60} is no command but an option")
    return shlex.join(words)


def _check_text(where: str, value: Any, empty: bool = False) -> None:
    if not isinstance(value, str) or "\0" in value or not (value or empty):
        raise SpecError(f"{where} is a text, and not {value!r:.60}")


def read_policy(path: str | Path) -> Policy:
    """Understand the operator's file.  Raises SpecError, which says which key is wrong, and why."""
    try:
        table = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as e:
        raise SpecError(f"{path}: {e.strerror}") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise SpecError(f"{path}: this is no TOML: {e}") from e
    try:
        return parse_policy(table)
    except SpecError as e:
        raise SpecError(f"{path}: {e}") from None


def parse_policy(table: Mapping[str, Any]) -> Policy:
    """The same from what is in the file."""
    _known(table, TOP_KEYS, "")
    limits = read_limits(table.get("limits", {}), Limits(), "limits")
    server = read_limits(table.get("server", {}), ServerLimits(), "server")
    raw = table.get("raw", False)
    if not isinstance(raw, bool):
        raise SpecError(f"raw is true or false, and not {raw!r}")
    origins = table.get("origins", [])
    if not isinstance(origins, list) or not all(isinstance(origin, str) for origin in origins):
        raise SpecError("origins is a list of texts like 'https://host:port'")
    found = table.get("specs", {})
    if not isinstance(found, Mapping) or not all(isinstance(one, Mapping) for one in found.values()):
        raise SpecError("specs is a table of tables: [specs.NAME]")
    specs = {name: _one(name, one, limits) for name, one in found.items()}
    if not specs and not raw:
        raise SpecError("it names no spec, so nothing could be started; write a table [specs.NAME]")
    default = table.get("default", next(iter(specs), RAW))
    if default not in specs and specs:
        raise SpecError(f"default = {default!r}: there is no [specs.{default}]; there are {', '.join(specs)}")
    return Policy(specs, default, raw, limits, server, frozenset(origins))


def _one(name: str, table: Mapping[str, Any], limits: Limits) -> Named:
    where = f"specs.{name}"
    if not NAME.match(name) or name == RAW:
        raise SpecError(f"{where}: {name!r} is no name for a spec: letters, digits and ._@- only, and not {RAW!r}")
    _known(table, (*SPEC_KEYS, *OWN_KEYS), f"{where}: ")
    tokens = table.get("tokens")
    if tokens is not None and not (isinstance(tokens, list) and all(isinstance(one, str) for one in tokens)):
        raise SpecError(f"{where}: tokens is a list of the names of tokens")
    about = table.get("about", "")
    if not isinstance(about, str):
        raise SpecError(f"{where}: about is a text")
    text = build({key: table[key] for key in SPEC_KEYS if key in table}, where)
    own = read_limits(table.get("limits", {}), limits, f"{where}.limits")
    return Named(Start(name, text, own), None if tokens is None else frozenset(tokens), about)


def _known(table: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(keys)}"
            raise SpecError(f"{where}there is no key {key!r}; {hint}")

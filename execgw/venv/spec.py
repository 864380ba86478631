"""venv= and its companions in a spec, with a gateway of any kind that takes python=.

venv=NAME//requires=requests>=2,pytest//wheelhouse=DIR//offline//uv=push//requires_python=>=3.9//index=URL

The first time a worker on the host's own interpreter builds the environment.  Where it is, is remembered on this side
(memo.py); from then on the worker starts in it at once, and says so if it is no longer what it was.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable

from ..errors import EnvironmentFailed, HostNotFound, HostNotReached, SpecError, StartError
from ..gateway import Gateway
from ..spec import XSpec
from . import memo
from .environment import Environment, Wanted, attach, make, wanted
from .requirements import split

INTERPRETER = re.compile(r"(.*/)?(python|pypy)[\d.]*t?\Z")
DEFAULT = "python3"


class VenvWrapper:
    """The keys; see the file's head."""

    keys = ("venv", "requires", "requires_python", "wheelhouse", "offline", "uv", "index")

    def start(self, spec: XSpec, begin: Callable[[XSpec], Gateway]) -> Gateway:
        """A gateway to a worker in the environment, on the host that the rest of the spec leads to."""
        want = wanted_by(spec)
        before, asked, after = _interpreter(spec)
        inner = spec.changed(self.keys)
        place = None if spec.via else memo.place_of(inner, want)  # another worker may have the name that via= says
        known = memo.recall(place)
        if known is not None:
            made = self._start_in(known, inner, [*before, known.python, *after], asked, begin)
            if isinstance(made, Gateway):
                return made
        first = begin(inner.changed(("chdir",), id=f"{spec.id}-venv"))
        with first:
            env = make(first, want, asked=asked)
        made = self._start_in(env, inner, [*before, env.python, *after], "", begin)
        if not isinstance(made, Gateway):
            raise EnvironmentFailed(
                f"{str(spec)!r}: {made}; if each start leads to another host, its disks must be shared"
            )
        memo.keep(place, env)
        return made

    def _start_in(
        self,
        env: Environment,
        inner: XSpec,
        words: list[str],
        asked: str,
        begin: Callable[[XSpec], Gateway],
    ) -> Gateway | str:
        """The gateway, or why there is none in this environment; *asked* has it look whether that is still the one."""
        try:
            gateway = begin(inner.changed(python=shlex.join(words)))
        except (HostNotFound, HostNotReached):
            raise
        except StartError as e:
            return str(e)
        try:
            why = attach(gateway, env, asked, own=inner.env, chdir=not inner.chdir)
        except BaseException:
            gateway._group._end([gateway], 0)
            raise
        if why is None:
            return gateway
        gateway._group._end([gateway], None)
        return why


def wanted_by(spec: XSpec) -> Wanted:
    """What the keys of a spec ask for."""
    texts: dict[str, str] = {}
    for key in VenvWrapper.keys:
        value = getattr(spec, key)
        if value is True and key not in ("venv", "offline"):
            raise SpecError(f"{str(spec)!r}: {key} needs a value: {key}=...")
        if value and value is not True:
            texts[key] = str(value)
    if spec.memory or spec.socket:
        kind = "memory" if spec.memory else "socket"
        raise SpecError(
            f"{str(spec)!r}: venv= goes with kinds that start an interpreter, and {kind} does not; "
            "make the gateway without it, and then execgw.venv.create_venv_gateway(gateway, ...)"
        )
    if "offline" in texts:
        raise SpecError(f"{str(spec)!r}: offline takes no value")
    try:
        return wanted(
            texts.get("venv", ""),
            split(texts.get("requires", "")),
            requires_python=texts.get("requires_python"),
            wheelhouse=texts.get("wheelhouse"),
            offline=bool(spec.offline),
            uv=texts.get("uv", "auto"),
            index_url=texts.get("index"),
            where="index=",
        )
    except SpecError as e:
        raise SpecError(f"{e} (in a spec; see docs/guide/venv.md)") from None


def _interpreter(spec: XSpec) -> tuple[list[str], str, list[str]]:
    """(words before the interpreter, the interpreter, words behind it) of python=."""
    if not spec.python:
        return [], sys.executable if spec.popen and not spec.via else DEFAULT, []
    words = shlex.split(str(spec.python)) if spec.python is not True else []
    if len(words) == 1:
        return [], words[0], []
    for at in range(len(words) - 1, -1, -1):
        if INTERPRETER.match(words[at]):
            return words[:at], words[at], words[at + 1 :]
    raise SpecError(f"{str(spec)!r}: venv= cannot tell which word of python={spec.python} is the interpreter")

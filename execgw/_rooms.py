"""What the rooms above add to groups and gateways, found by entry points and never by an import that goes up.

execgw.wrappers   objects with spec keys that go with a gateway of any kind, see Wrapper
execgw.features   functions behind methods of Gateway, by the method's name
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from . import transports
from .errors import SpecError, StartError
from .spec import COMMON_KEYS, XSpec

if TYPE_CHECKING:
    from .gateway import Gateway


class Wrapper(Protocol):
    """Spec keys that change where a gateway of any kind lives: venv=, say.

    keys   the spec keys that ask for it
    start  returns the gateway that *spec* means; begin(spec) starts one from a spec without these keys, which is in
           no list of the group: the wrapper ends it, or returns it
    """

    @property
    def keys(self) -> tuple[str, ...]: ...

    def start(self, spec: XSpec, begin: Callable[[XSpec], Gateway]) -> Gateway: ...


@functools.cache
def wrappers() -> dict[str, Wrapper]:
    """All that are registered, by each of their keys."""
    from importlib.metadata import entry_points  # here: it takes longer than all else that a plain gateway imports

    found: dict[str, Wrapper] = {}
    for entry in entry_points(group="execgw.wrappers"):
        wrapper: Wrapper = entry.load()()
        found.update(dict.fromkeys(wrapper.keys, wrapper))
    return found


@functools.cache
def _plain_keys() -> frozenset[str]:
    return frozenset({*COMMON_KEYS, *transports.builtin_names(), "ssh_config"})


def wrapper_of(spec: XSpec) -> Wrapper | None:
    """The wrapper that a spec asks for.  Looking at entry points costs a walk: it is done for unusual keys only."""
    unusual = [key for key in spec.keys() if key not in _plain_keys()]  # noqa: SIM118  # keys() of a spec is no dict
    found = {id(wrapper): wrapper for key in unusual if (wrapper := wrappers().get(key)) is not None}
    if len(found) > 1:
        raise SpecError(f"{str(spec)!r}: {' and '.join(unusual)} cannot be in one spec")
    return next(iter(found.values()), None)


@functools.cache
def feature(name: str) -> Callable[..., Any]:
    """The function behind a method."""
    from importlib.metadata import entry_points

    for entry in entry_points(group="execgw.features"):
        if entry.name == name:
            load: Callable[..., Any] = entry.load()
            return load
    raise StartError(f"nothing is registered for {name!r}: execgw is not installed as a whole; pip install execgw")

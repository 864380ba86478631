"""What commands that start several gateways share: N*SPEC, and gateways that others go through (via=)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import SpecError
from ..gateway import Gateway
from ..group import Group
from ..spec import XSpec

MOST = 1000  # gateways that one word may ask for


def expand(words: Iterable[str]) -> list[XSpec]:
    """The specs that are meant: '3*popen' is three."""
    specs: list[XSpec] = []
    for word in words:
        times, text = 1, word
        found = re.match(r"(\d+)\*", word)
        if found:
            times, text = int(found[1]), word[found.end() :]
            if not 1 <= times <= MOST:
                raise SpecError(f"{word!r}: a spec can be given 1 to {MOST} times")
            if times > 1 and XSpec(text).id:
                raise SpecError(f"{word!r}: {times} gateways cannot have one id; leave out id=")
        specs.extend(XSpec(text) for _ in range(times))
    return specs


def start(group: Group, specs: list[XSpec]) -> list[Gateway]:
    """Start all at the same time, those that go through others of them (via=) after these; in the order of *specs*."""
    made: dict[int, Gateway] = {}
    waiting = dict(enumerate(specs))
    while waiting:
        ids = {spec.id for spec in waiting.values() if spec.id}
        # Where a circle of via= leaves nothing to begin with, the group says that there is no such gateway.
        ready = [number for number, spec in waiting.items() if not spec.via or spec.via not in ids] or list(waiting)
        try:
            gateways = group.makegateways([waiting.pop(number) for number in ready])
        except ValueError as e:  # two of one id
            raise e if isinstance(e, SpecError) else SpecError(str(e)) from None
        made.update(zip(ready, gateways, strict=True))
    return [made[number] for number in range(len(specs))]


def hops(specs: Iterable[XSpec]) -> set[str]:
    """The ids of the gateways that others go through."""
    return {str(spec.via) for spec in specs if spec.via}

"""Scripts that say what they need (PEP 723): read here, run in a cached environment on a gateway's host."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path
from typing import Any

from .. import _bundle
from .._loop import run
from ..channel import Channel
from ..errors import SpecError
from ..gateway import Gateway
from .environment import Progress, Wanted, beside, make, wanted
from .packages import toml

# As PEP 723 has it.
BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")


def block_of(source: str) -> dict[str, Any] | None:
    """The table of a source's `# /// script` block; None if it has none, SpecError if it is none."""
    text = source.replace("\r\n", "\n")
    contents = [match["content"] for match in BLOCK.finditer(text) if match["type"] == "script"]
    if not contents:
        return None
    if len(contents) > 1:
        raise SpecError("the script has several `# /// script` blocks; one says it all")
    lines = [line[2:] if line.startswith("# ") else line[1:] for line in contents[0].splitlines()]
    try:
        table: dict[str, Any] = toml().loads("\n".join(lines))
    except ValueError as e:
        raise SpecError(f"the `# /// script` block is no TOML: {e}") from None
    return table


def wanted_of(source: str | bytes, **more: Any) -> Wanted | None:
    """The environment that a source asks for, or None; *more* as of create_venv_gateway."""
    text = source.decode("utf-8", "replace") if isinstance(source, bytes) else source
    table = block_of(text) if "# /// script" in text else None
    if table is None:
        return None
    needs, python = table.get("dependencies", []), table.get("requires-python")
    if not isinstance(needs, list) or not (python is None or isinstance(python, str)):
        raise SpecError("the `# /// script` block: dependencies is a list of texts, requires-python a text")
    return wanted("", needs, requires_python=python, **more)


def place_for(gateway: Gateway, want: Wanted | None, progress: Progress | None = None) -> Gateway:
    """A worker in that environment, or *gateway* itself if none is wanted."""
    return gateway if want is None else beside(gateway, make(gateway, want, progress), None)


def run_script(
    gateway: Gateway,
    path: str | os.PathLike[str],
    args: tuple[str, ...] = (),
    *,
    timeout: float | None = None,
    stdout: Any = None,
    stderr: Any = None,
    progress: Progress | None = None,
    **more: Any,
) -> Channel:
    """Gateway.run_script."""
    file = Path(path)
    source = file.read_bytes()
    want = wanted_of(source, **more)
    if want is None and more:
        raise SpecError(f"{str(file)!r} has no `# /// script` block, so there is no use for {', '.join(more)}")
    place = place_for(gateway, want, progress)
    text, filename = _bundle.task("run_script")
    task = ("function", text, filename, "main", (), {"source": source, "filename": str(file), "args": list(args)})
    return _started(
        place, gateway, lambda: place._execute(task, {"timeout": timeout, "stdout": stdout, "stderr": stderr})
    )


def remote_exec_script(gateway: Gateway, source: str, options: dict[str, Any]) -> Channel:
    """Gateway.remote_exec of a text with a block."""
    place = place_for(gateway, wanted_of(textwrap.dedent(source)))
    return _started(place, gateway, lambda: place._remote_exec(source, options))


def _started(place: Gateway, gateway: Gateway, start: Any) -> Channel:
    """Start the code; a worker that was made for it alone ends with it."""
    try:
        channel: Channel = start()
    except BaseException:
        if place is not gateway:
            place.exit()
        raise
    if place is not gateway:

        def end() -> None:
            # Not waitclose(): why it ended is told once, to whoever receives or waits.
            channel._peer.wait_until(lambda port: port.ended, channel._port, None)
            run(channel._output_handed_on())
            place.exit()

        place._callbacks.submit(end)
    return channel

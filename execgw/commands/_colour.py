"""Which gateway a line is of, in a colour of its own where a terminal shows it."""

from __future__ import annotations

from typing import TextIO

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red", "bright_cyan", "bright_magenta", "bright_green")


def prefix(gateway: str, number: int, stream: TextIO) -> bytes:
    """`[gateway] `, in colour if *stream* is a terminal, rich is installed, and NO_COLOR and TERM do not object."""
    text = f"[{gateway}] "
    if not stream.isatty():
        return text.encode()
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:  # the extra `cli` was not asked for
        return text.encode()
    console = Console(file=stream, soft_wrap=True)
    with console.capture() as captured:
        console.print(Text(text, COLOURS[number % len(COLOURS)]), end="")
    return captured.get().encode()

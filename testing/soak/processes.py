"""What the kernel says of processes: memory, threads, descriptors, children; and percentiles.  For the soak scripts."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def rss_kib(pid: int | str = "self") -> int:
    """Resident memory of a process, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ProcessLookupError(f"process {pid} has no memory: it is a zombie")


def descriptors() -> dict[int, str]:
    """The open descriptors of this process, and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listdir itself had open
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def thread_count() -> int:
    """Threads of this process, as the kernel counts them."""
    return len(os.listdir("/proc/self/task"))


def processes() -> dict[int, tuple[int, str, str]]:
    """All processes: pid -> (parent's pid, state, name)."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = Path(f"/proc/{name}/stat").read_text(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            command, _, rest = text.rpartition(")")
            state, parent = rest.split()[:2]
            found[int(name)] = int(parent), state, command.partition("(")[2]
    return found


def children() -> dict[int, str]:
    """Children of this process that were not waited for: pid -> 'state name'.  'Z' is a zombie."""
    me = os.getpid()
    return {pid: f"{state} {name}" for pid, (parent, state, name) in processes().items() if parent == me}


def percentile(values: list[float], percent: float) -> float:
    """The value that *percent* of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows as aligned columns; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)

"""What environments cost: a gateway in one beside a plain gateway, and beside tox and uv run for the same requirements.

    python testing/bench/environments.py [--repeat 15] [--python /path/of/python]

Everything real: pip, uv and tox with the registry that this machine is set up for.  First starts are from nothing but
the tools' own caches of packages; times are until the first line of a script that imports the packages.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import execgw
from execgw.venv.push import find_uv

NEEDS = ["six", "cowsay"]
CODE = "import six, cowsay; print(cowsay.__name__)"
GOAL = 1.3  # a start in a known environment, against a plain one


def timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def start(spec: str) -> float:
    """Seconds until the first answer of a new worker."""
    with execgw.Group() as group:
        return timed(lambda: group.makegateway(spec).remote_exec("channel.send(1)").receive())


def run(argv: list[str], cwd: Path, **environ: str) -> None:
    done = subprocess.run(argv, cwd=cwd, env={**os.environ, **environ}, capture_output=True, text=True)
    assert done.returncode == 0 and "cowsay" in done.stdout, done.stdout + done.stderr


def gateways(python: str, repeat: int) -> None:
    """The start of a gateway in a known environment, beside that of a plain one."""
    plain = f"popen//python={python}"
    known = f"{plain}//venv=bench//requires={','.join(NEEDS)}"
    first = start(known)
    start(plain)
    times: dict[str, list[float]] = {"plain": [], "known": []}
    for _ in range(repeat):  # interleaved, so that drift hits both alike
        times["plain"].append(start(plain))
        times["known"].append(start(known))
    middle = {name: statistics.median(all_) for name, all_ in times.items()}
    best = {name: min(all_) for name, all_ in times.items()}
    ratio = middle["known"] / middle["plain"]
    print("| until the first answer of a new worker | median | best |\n|---|---|---|")
    print(f"| plain, on {python} | {middle['plain'] * 1e3:.1f} ms | {best['plain'] * 1e3:.1f} ms |")
    print(f"| in a known environment | {middle['known'] * 1e3:.1f} ms | {best['known'] * 1e3:.1f} ms |")
    print(f"| ratio (goal: {GOAL}) | {ratio:.2f} | {best['known'] / best['plain']:.2f} |")
    print(f"| the first, which builds it | {first * 1e3:.0f} ms | |\n")


def tools(python: str, folder: Path, repeat: int) -> None:
    """The same environment with other tools, as commands."""
    uv = find_uv()
    assert uv is not None
    (folder / "script.py").write_text(CODE)
    needs = "".join(f"\n  {need}" for need in NEEDS)
    (folder / "tox.ini").write_text(
        f"[testenv]\nskip_install = true\nbase_python = {python}\ndeps ={needs}\ncommands = python script.py\n"
    )
    withs = [word for need in NEEDS for word in ("--with", need)]
    block = "# /// script\n# dependencies = " + repr(NEEDS) + "\n# ///\n"
    (folder / "tool.py").write_text(block + CODE)
    spec = f"popen//python={python}"
    rows: list[tuple[str, list[str]]] = [
        (
            "execgw exec 'popen//venv=x//requires=...' script.py",
            [sys.executable, "-m", "execgw", "exec", f"{spec}//venv=x//requires={','.join(NEEDS)}", "script.py"],
        ),
        (
            "the same with //uv=no: pip",
            [sys.executable, "-m", "execgw", "exec", f"{spec}//venv=y//uv=no//requires={','.join(NEEDS)}", "script.py"],
        ),
        ("execgw exec popen tool.py (PEP 723)", [sys.executable, "-m", "execgw", "exec", spec, "tool.py"]),
        ("uv run --with ... script.py", [str(uv), "run", "-q", "--no-project", "-p", python, *withs, "script.py"]),
        ("uv run tool.py (PEP 723)", [str(uv), "run", "-q", "-p", python, "tool.py"]),
        ("tox", [sys.executable, "-m", "tox", "-q", "--runner", "virtualenv", "-e", "py"]),
    ]
    print("| the same environment | first | again |\n|---|---|---|")
    for name, argv in rows:
        first = timed(lambda argv=argv: run(argv, folder))  # type: ignore[misc]  # bound now
        again = [timed(lambda argv=argv: run(argv, folder)) for _ in range(max(repeat // 3, 3))]  # type: ignore[misc]
        print(f"| `{name}` | {first:.2f} s | {statistics.median(again):.2f} s |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--python", default=os.path.realpath(sys.executable), help="the interpreter, by its full path")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "venvs").mkdir(mode=0o700)
        os.environ.update(EXECGW_VENVS=str(folder / "venvs"), UV_PYTHON_DOWNLOADS="never")
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        gateways(options.python, options.repeat)
        tools(options.python, folder, options.repeat)
    return 0


if __name__ == "__main__":
    sys.exit(main())

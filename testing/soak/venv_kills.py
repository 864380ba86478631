"""Builds of environments killed at random points, each followed by a clean one.

    python testing/soak/venv_kills.py [--rounds 20] [--uv auto|no]

Each round kills a worker with SIGKILL while it builds, asks for the same environment from another one, and looks: the
environment works, there is one directory of it, and no lock is held by anybody.  Prints the violations.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
from pathlib import Path

import execgw
from execgw.venv import create_venv_gateway
from execgw.venv.kept import list_environments, prune_environments


def one_round(number: int, root: Path, uv: str, longest: float) -> list[str]:
    """What was wrong."""
    wrong: list[str] = []
    name = f"round{number}"
    with execgw.Group() as group:
        victim = group.makegateway("popen")
        pid = victim.call(os.getpid)
        timer = threading.Timer(random.uniform(0, longest), os.kill, (pid, signal.SIGKILL))
        timer.start()
        killed = False
        try:
            create_venv_gateway(victim, name, "six cowsay", uv=uv)
        except (execgw.ExecgwError, OSError):
            killed = True
        timer.join()
        new = create_venv_gateway(group.makegateway("popen"), name, "six cowsay", uv=uv)
        found = new.remote_exec("import six, cowsay; channel.send(cowsay.__name__)").receive(30)
        if found != "cowsay":
            wrong.append(f"round {number}: the environment has {found!r}")
        directories = [path for path in root.glob(f"{name}-*") if path.is_dir()]
        if len(directories) != 1:
            wrong.append(f"round {number}: there are {directories}")
        print(f"round {number}: {'killed in the middle' if killed else 'it was faster'}", flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--uv", default="auto")
    parser.add_argument("--longest", type=float, default=0.8, help="seconds until the latest kill")
    options = parser.parse_args()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "venvs"
        root.mkdir(mode=0o700)
        os.environ["EXECGW_VENVS"] = str(root)
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        for number in range(options.rounds):
            wrong += one_round(number, root, options.uv, options.longest)
        with execgw.Group() as group:
            gw = group.makegateway("popen")
            wrong += [f"still in use: {one.key}" for one in list_environments(gw) if one.busy]
            prune_environments(gw, seconds=0)
        wrong += [f"left: {path.name}" for path in root.iterdir() if path.name != "known"]
    print(f"violations        {len(wrong)}", *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

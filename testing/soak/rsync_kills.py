"""kill -9 of either side of an rsync at random moments: each file is old or new, never half; a second run completes.

    python testing/soak/rsync_kills.py --kills 200 [--python python2.7] [--seed 1]

Prints how many kills fell into a run, how many files were old and new, and the violations.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = """
import sys, execgw
source, dest, spec, fetch = sys.argv[1:]
gateway = execgw.makegateway(spec)
print(gateway._rinfo().pid, flush=True)
if fetch == "1":
    report = execgw.RSync.fetch(gateway, source, dest, delete=True)
else:
    rsync = execgw.RSync(source, verbose=False)
    rsync.add_target(gateway, dest, delete=True)
    report = rsync.send()
print("done", report.exit_code, flush=True)
"""


def make(root: Path, seed: int) -> dict[str, bytes]:
    """A tree: small files, some middling ones, a big one; those of two seeds differ everywhere."""
    rnd = random.Random(seed)
    common = random.Random(0).randbytes(6 << 20)
    tree = {f"d{n % 5}/small{n}": rnd.randbytes(rnd.randrange(1, 5000)) for n in range(400)}
    tree.update({f"middle{n}": rnd.randbytes(300_000) for n in range(5)})
    tree["big"] = rnd.randbytes(3) + common + rnd.randbytes(1 << 20)
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1_600_000_000 + seed, 1_600_000_000 + seed))
    return tree


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def run(source: Path, dest: Path, spec: str, fetch: bool) -> tuple[subprocess.Popen[str], int]:
    argv = [sys.executable, "-c", RUN, str(source), str(dest), spec, str(int(fetch))]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def wait_gone(pid: int) -> None:
    end = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.002)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--python", default="")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rnd = random.Random(options.seed)
    spec = f"popen//python={options.python}" if options.python else "popen"
    top = Path(tempfile.mkdtemp(prefix="execgw-kills-"))
    old, new = make(top / "old", 1), make(top / "new", 2)
    violations: list[str] = []
    hit = were_old = were_new = 0
    longest = 0.3
    try:
        for number in range(options.kills):
            dest = top / "dest"
            shutil.rmtree(dest, ignore_errors=True)
            shutil.copytree(top / "old", dest)
            fetch = number % 3 == 2
            process, worker = run(top / "new", dest, spec, fetch)
            begun = time.monotonic()
            time.sleep(rnd.uniform(0, longest))
            victim = worker if rnd.random() < 0.5 else process.pid
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                pass
            said = process.communicate()[0]
            wait_gone(worker)
            if "done" in said:
                longest = max(0.05, min(longest, time.monotonic() - begun))
            else:
                hit += 1
            for name, content in files(dest).items():
                if ".execgw-rsync-" in name:
                    continue
                if content not in (old.get(name), new.get(name)):
                    violations.append(f"kill {number}: {name} is neither old nor new ({len(content)} bytes)")
                were_old += content == old.get(name)
                were_new += content == new.get(name)
            second, worker = run(top / "new", dest, spec, fetch)
            said = second.communicate()[0]
            wait_gone(worker)
            if said != "done 0\n":
                violations.append(f"kill {number}: the second run said {said!r}")
            if files(dest) != new:
                violations.append(f"kill {number}: after the second run: {set(files(dest)) ^ set(new)}")
    finally:
        shutil.rmtree(top, ignore_errors=True)
    print(f"kills within a run  {hit} of {options.kills}")
    print(f"files old           {were_old}")
    print(f"files new           {were_new}")
    print(f"violations          {len(violations)}")
    for violation in violations[:20]:
        print("  " + violation)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())

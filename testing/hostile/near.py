"""A near side of its own, under a memory limit: one hostile worker, one honest one, and what became of both.

    python near.py MODE SCENARIO [MOST_MIB]

MODE is start (no worker comes to be), values (each value that is to be refused is received), direct, via (the hostile
worker is reached through the honest one) or master (an honest-looking worker is reached through the hostile one).
Prints one line of JSON: how the hostile session ended, what arrived, the slowest echo of the honest worker meanwhile,
the memory that this process took beyond what it had before.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import sys
import threading
import time
from pathlib import Path
from typing import Any

from payloads import REFUSED

import execgw

KIT = Path(__file__).parent / "hostile.py"
SECONDS = 60.0  # a scenario that takes longer hangs


def spec(scenario: str) -> str:
    """The spec of a hostile worker."""
    return f"cmd={shlex.quote(sys.executable)} -S -E {shlex.quote(str(KIT))} {scenario}"


def memory(name: str) -> int:
    """VmRSS or VmHWM of this process, in KiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


class Echo:
    """Calls an honest worker again and again, and knows how long that took at most."""

    def __init__(self, gateway: execgw.Gateway) -> None:
        self.channel = gateway.remote_exec("for item in channel: channel.send(item)")
        self.slowest = 0.0
        self.count = 0
        self.going = True
        self.trip()
        self.slowest = 0.0
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def trip(self) -> None:
        begun = time.monotonic()
        self.channel.send(self.count)
        assert self.channel.receive(timeout=SECONDS) == self.count
        self.count += 1
        self.slowest = max(self.slowest, time.monotonic() - begun)

    def run(self) -> None:
        pause = threading.Event()
        while self.going:
            self.trip()
            pause.wait(0.002)

    def stop(self) -> None:
        self.going = False
        self.thread.join()


def start(group: execgw.Group, mode: str, scenario: str) -> execgw.Gateway:
    """The gateway that is attacked from; `honest` is there already."""
    if mode == "direct":
        return group.makegateway(f"{spec(scenario)}//id=hostile")
    if mode == "via":
        return group.makegateway(f"{spec(scenario)}//id=hostile//via=honest")
    group.makegateway(f"{spec(f'master:{scenario}')}//id=hostile")
    return group.makegateway("popen//python=python3//id=child//via=hostile")


def attacked(gateway: execgw.Gateway) -> dict[str, Any]:
    """Run code there, and take what comes; 'still here' ends it."""
    channel = gateway.remote_exec("channel.send('never run')")
    arrived: list[str] = []
    try:
        while arrived[-1:] != ["still here"]:
            arrived.append(repr(channel.receive(timeout=SECONDS))[1:50].rstrip("'"))
    except execgw.TimeoutError:
        return {"error": "hangs", "arrived": arrived}
    except Exception as e:
        waited = gateway._session.over.wait(5)
        return {"error": f"{type(e).__name__}: {e}", "arrived": arrived[:50], "over": waited}
    return {"error": "", "arrived": arrived[:50]}


def started(group: execgw.Group, scenario: str) -> dict[str, Any]:
    """Try to start a worker that does not mean to be one."""
    try:
        group.makegateway(f"{spec(scenario)}//id=hostile//start_timeout=2")
    except execgw.StartError as e:
        return {"error": f"{type(e).__name__}: {e}"}
    return {"error": ""}


def received(group: execgw.Group) -> dict[str, Any]:
    """Receive what payloads.REFUSED has, each on a channel of its own."""
    outcomes = {}
    gateway = start(group, "direct", "values")
    for name, _, _ in REFUSED:
        begun = time.monotonic()
        try:
            outcome = repr(gateway.remote_exec("").receive(timeout=SECONDS))[:100]
        except Exception as e:
            outcome = f"{type(e).__name__}: {e}"
        outcomes[name] = outcome, round(time.monotonic() - begun, 2)
    return {"error": "" if gateway.hasreceiver() else str(gateway._session.lost), "outcomes": outcomes}


def main() -> None:
    mode, scenario = sys.argv[1:3]
    if len(sys.argv) > 3:
        limit = int(sys.argv[3]) << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with execgw.Group() as group:
        echo = Echo(group.makegateway("popen//id=honest"))
        gateway = start(group, mode, scenario) if mode in ("direct", "via", "master") else None
        before = memory("VmRSS")
        echo.slowest = 0.0
        begun = time.monotonic()
        if gateway is not None:
            told = attacked(gateway)
        else:
            told = started(group, scenario) if mode == "start" else received(group)
        told["seconds"] = round(time.monotonic() - begun, 2)
        echo.stop()
        told.update(trips=echo.count, slowest_ms=round(echo.slowest * 1000), grown_mib=(memory("VmHWM") - before) >> 10)
        told["canary"] = os.path.exists(os.environ.get("EXECGW_CANARY", ""))
        group.terminate(timeout=2)
    print(json.dumps(told))


if __name__ == "__main__":
    main()

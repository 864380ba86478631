"""How much the memory of both sides grows while a big file is copied, and when one byte is put in front of it.

python testing/bench/rsync_memory.py [--gib 4] [--at /dev/shm]
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import time

import execgw

# Not ru_maxrss: a child starts with that of its parent.
FORGET = "open('/proc/self/clear_refs', 'w').write('5')"
PEAK = "[int(line.split()[1]) for line in open('/proc/self/status') if line[:6] == 'VmHWM:'][0]"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gib", type=float, default=4)
    parser.add_argument("--at", default=None)
    options = parser.parse_args()
    top = tempfile.mkdtemp(dir=options.at)
    source, dest = os.path.join(top, "source"), os.path.join(top, "dest")
    os.mkdir(source)
    piece = random.Random(1).randbytes(1 << 20)
    size = int(options.gib * 1024)
    try:
        for front in (b"", b"!"):
            with open(os.path.join(source, "big"), "wb") as file:
                file.write(front)
                for number in range(size):
                    file.write(number.to_bytes(8, "big") + piece[8:])
            with execgw.makegateway("popen") as gateway:
                # One small run first: what is grown is not what is loaded.
                small = os.path.join(top, "small")
                os.makedirs(small, exist_ok=True)
                rsync = execgw.RSync(small, verbose=False)
                rsync.add_target(gateway, small + "-dest")
                rsync.send()
                exec(FORGET)
                gateway.remote_exec(FORGET).waitclose()
                near = eval(PEAK)
                far = gateway.remote_exec(f"channel.send({PEAK})").receive()
                begun = time.perf_counter()
                rsync = execgw.RSync(source, verbose=False)
                rsync.add_target(gateway, dest)
                report = rsync.send()
                seconds = time.perf_counter() - begun
                near = eval(PEAK) - near
                far = gateway.remote_exec(f"channel.send({PEAK})").receive() - far
            wire = report[0].bytes_sent + report[0].bytes_received
            print(
                f"{'one byte in front' if front else 'first copy'}: {options.gib} GiB in {seconds:.1f} s, "
                f"{wire:,} bytes on the wire, near side +{near / 1024:.1f} MiB, far side +{far / 1024:.1f} MiB"
            )
    finally:
        shutil.rmtree(top)


main()

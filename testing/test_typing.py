"""What a user's type checker sees: a script that uses the whole face is clean under mypy --strict."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SCRIPT = """
import math
from concurrent.futures import Future

import execgw


def triple(x: int) -> int:
    return 3 * x


def use(specs: list[str]) -> None:
    with execgw.Group(specs, execmodel="thread") as group:
        first, second = group.makegateways(["popen//id=a", execgw.XSpec("popen//via=a")])
        channel: execgw.Channel = first.remote_exec("channel.send(channel.receive() + 1)")
        channel.send(1)
        channel.receive(timeout=5)
        channel.setcallback(print, endmarker=None, pass_error=True)
        channel.waitclose(5.0)
        root: float = second.call(math.sqrt, 16.0)
        nine: Future[int] = first.submit(triple, 3)
        reveal_type(first.call(triple, 1))
        many: execgw.MultiChannel = group.remote_exec("pass")
        many.send_each({"any": [root, nine.result()]})
        print(first.remote_status().numexecuting, group.terminate(timeout=5.0)["a"])
    try:
        print(execgw.loads(execgw.dumps((1, 2))))
    except (execgw.RemoteError, execgw.ConnectionLost) as e:
        print(e.args, isinstance(e, execgw.ExecgwError))
"""

AWAITING = """
import asyncio

from execgw import aio


def triple(x: int) -> int:
    return 3 * x


async def use(specs: list[str]) -> None:
    async with aio.Group(specs, execmodel="thread") as group:
        first, second = await group.makegateways(["popen//id=a", "popen//via=a"])
        channel: aio.Channel = await first.remote_exec("channel.send(channel.receive() + 1)")
        await channel.send(1)
        await channel.receive(timeout=5)
        channel.setcallback(print, endmarker=None, pass_error=True)
        await channel.waitclose(5.0)
        nine: asyncio.Task[int] = first.submit(triple, 3)
        reveal_type(await first.call(triple, 1))
        many: aio.MultiChannel = await group.remote_exec("pass")
        await many.send_each({"any": await nine})
        for one, item in await many.receive_each(withchannel=True):
            one.close(str(item))
        print((await second.remote_status()).numexecuting, (await group.terminate(timeout=5.0))["a"])
"""


def mypy(tmp_path: Path, text: str) -> tuple[int, str]:
    script = tmp_path / "script.py"
    script.write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--cache-dir", os.devnull, str(script)]
    # An editable install is found through an import hook, which mypy does not run.
    done = subprocess.run(
        command, env={**os.environ, "MYPYPATH": str(ROOT)}, cwd=tmp_path, text=True, capture_output=True
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("script", [SCRIPT, AWAITING], ids=["sync", "asyncio"])
def test_a_script_that_uses_everything_is_clean_under_mypy_strict(tmp_path: Path, script: str) -> None:
    code, said = mypy(tmp_path, script)

    assert code == 0, said
    assert 'Revealed type is "int"' in said or 'Revealed type is "builtins.int"' in said


def test_a_wrong_argument_is_found_by_mypy(tmp_path: Path) -> None:
    code, said = mypy(tmp_path, SCRIPT.replace("first.submit(triple, 3)", 'first.submit(triple, "3")'))

    assert code == 1
    assert "[arg-type]" in said

"""detach() and attach(): a worker and its channels go from one process to another, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import execgw
from execgw import (
    AuthenticationFailed,
    ClosedHere,
    ConnectionLost,
    ExecgwError,
    Group,
    RemoteError,
    SpecError,
    StartError,
    aio,
)
from execgw.spec import TICKET
from execgw.transports import front

SPEC = "popen//resume=30"
COUNT = """
count = 0
while True:
    channel.send(count)
    count += 1
"""
WAIT = 20


@pytest.fixture
def other(nothing_left: str) -> Any:
    """Another group, as another process would have."""
    group = Group()
    yield group
    group.terminate(timeout=5)


def near_process(program: str, *args: str) -> subprocess.Popen[str]:
    """A near side in a process of its own; it can be killed."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


# -- detach


def test_what_was_not_received_is_received_by_who_attaches(group: Group, other: Group) -> None:
    gateway = group.makegateway(SPEC)
    channel = gateway.remote_exec("for item in channel: channel.send(item)")
    for number in range(10):
        channel.send(number)
    assert [channel.receive(WAIT) for _ in range(4)] == [0, 1, 2, 3]

    ticket = gateway.detach()
    attached = other.attach(ticket)
    mine = attached.channels[channel.id]
    mine.send("more")

    assert [mine.receive(WAIT) for _ in range(7)] == [4, 5, 6, 7, 8, 9, "more"]


def test_a_detached_gateway_is_closed_here_and_out_of_its_group(group: Group) -> None:
    gateway = group.makegateway(SPEC)
    channel = gateway.remote_exec("channel.receive()")

    ticket = gateway.detach()

    with pytest.raises(ClosedHere, match="was detached"):
        channel.receive(WAIT)
    with pytest.raises(ClosedHere):
        gateway.remote_exec("1")
    assert len(group) == 0
    group.attach(ticket)


def test_a_gateway_may_go_back_and_forth(group: Group, other: Group) -> None:
    gateway = group.makegateway(SPEC)
    channel = gateway.remote_exec("total = 0\nfor item in channel:\n    total += item\n    channel.send(total)")
    number, pid = channel.id, gateway.remote_exec("import os; channel.send(os.getpid())").receive(WAIT)
    total = 0

    for step in range(6):
        gateway = (group, other)[step % 2].attach(gateway.detach())
        channel = gateway.channels[number]
        channel.send(step)
        total += step
        assert channel.receive(WAIT) == total

    assert gateway.remote_exec("import os; channel.send(os.getpid())").receive(WAIT) == pid


def test_a_worker_goes_on_while_nobody_is_there_and_waits_when_too_much_waits(group: Group) -> None:
    gateway = group.makegateway(SPEC)
    channel = gateway.remote_exec(COUNT)
    assert channel.receive(WAIT) == 0

    attached = group.attach(gateway.detach())
    mine = attached.channels[channel.id]

    assert [mine.receive(WAIT) for _ in range(30_000)] == [*range(1, 30_001)]


def test_the_end_of_code_and_its_error_wait_too(group: Group, eventually: Any) -> None:
    gateway = group.makegateway(SPEC)
    fine = gateway.remote_exec("channel.send(1)")
    wrong = gateway.remote_exec("channel.send(2)\nchannel.receive()\n1 / 0")
    eventually(lambda: fine.isclosed(), "the end of the first code")
    wrong.send(0)

    attached = group.attach(gateway.detach())

    assert [*attached.channels[fine.id]] == [1]
    mine = attached.channels[wrong.id]
    assert mine.receive(WAIT) == 2
    with pytest.raises(RemoteError, match="division by zero"):
        mine.receive(WAIT)


def test_what_is_over_and_was_seen_is_not_there_any_more(group: Group) -> None:
    gateway = group.makegateway(SPEC)
    for _ in range(3):
        assert gateway.call(len, "four") == 4
    channel = gateway.remote_exec("channel.send(1)")
    assert [*channel] == [1]

    attached = group.attach(gateway.detach())

    assert attached.channels == {}
    assert attached.call(len, "four") == 4


def test_a_value_larger_than_the_window_arrives_whole(group: Group) -> None:
    gateway = group.makegateway(SPEC)
    channel = gateway.remote_exec("channel.send(bytes(30 << 20)); channel.send('end')")

    attached = group.attach(gateway.detach())
    mine = attached.channels[channel.id]

    assert len(mine.receive(WAIT)) == 30 << 20
    assert mine.receive(WAIT) == "end"


def test_channels_in_values_are_known_to_who_attaches(group: Group) -> None:
    gateway = group.makegateway(SPEC)
    channel = gateway.remote_exec(
        "inner = channel.receive()\nouter = channel.gateway.newchannel()\nchannel.send(outer)\n"
        "channel.receive()\ninner.send('inner')\nouter.send('outer')\nchannel.receive()"
    )
    inner = gateway.newchannel()
    channel.send(inner)
    number = inner.id

    attached = group.attach(gateway.detach())
    mine = attached.channels[channel.id]
    outer = mine.receive(WAIT)
    mine.send("go")

    assert attached.channels[number].receive(WAIT) == "inner"
    assert outer.receive(WAIT) == "outer"
    assert attached.newchannel().id > number


def test_modules_that_the_worker_asks_for_come_from_who_is_there(group: Group) -> None:
    gateway = group.makegateway(f"{SPEC}//import=json")
    attached = group.attach(gateway.detach())

    channel = attached.remote_exec("channel.gateway.execmodel\nimport json\nchannel.send(json.dumps([1]))")

    assert channel.receive(WAIT) == "[1]"


def test_only_what_is_resumable_can_be_detached(group: Group) -> None:
    gateway = group.makegateway("popen")

    for call in (gateway.detach, lambda: gateway.ticket):
        with pytest.raises(ExecgwError, match="give resume=SECONDS"):
            call()


def test_a_gateway_that_others_are_reached_through_is_not_detached(group: Group) -> None:
    gateway = group.makegateway(f"{SPEC}//id=master")
    group.makegateway("popen//via=master//id=below")

    with pytest.raises(ExecgwError, match="below are reached through it"):
        gateway.detach()


# -- a near side that is killed

NEAR = """
    import sys, execgw
    gateway = execgw.makegateway(sys.argv[1])
    channel = gateway.remote_exec(sys.argv[2])
    print(gateway.ticket, channel.id, flush=True)
    for item in channel:
        print(item, flush=True)
"""


def test_a_near_side_is_killed_and_the_next_one_misses_nothing(group: Group) -> None:
    near = near_process(NEAR, SPEC, COUNT)
    assert near.stdout is not None
    ticket, number = near.stdout.readline().split()
    seen = [int(near.stdout.readline()) for _ in range(500)]

    near.kill()
    seen += [int(line) for line in near.stdout if line.endswith("\n")]
    near.wait()
    attached = group.attach(ticket)
    mine = attached.channels[int(number)]
    first = mine.receive(WAIT)

    assert seen == [*range(len(seen))]
    assert first <= len(seen)  # values that it had not yet said to be taken come again
    assert [mine.receive(WAIT) for _ in range(2000)] == [*range(first + 1, first + 2001)]
    for pipe in (near.stdin, near.stdout):
        assert pipe is not None
        pipe.close()


def test_killed_near_sides_one_after_the_other_lose_nothing(nothing_left: str) -> None:
    near = near_process(NEAR, SPEC, COUNT)
    assert near.stdout is not None
    ticket, number = near.stdout.readline().split()
    again = """
        import sys, execgw
        channel = execgw.attach(sys.argv[1]).channels[int(sys.argv[2])]
        for item in channel:
            print(item, flush=True)
    """
    last = -1
    for _ in range(5):
        items = [int(near.stdout.readline()) for _ in range(50)]
        near.kill()
        items += [int(line) for line in near.stdout if line.endswith("\n")]
        near.wait()
        assert items[0] <= last + 1
        assert items == [*range(items[0], items[0] + len(items))]
        last = max(last, items[-1])
        near.stdin.close()  # type: ignore[union-attr]
        near.stdout.close()
        near = near_process(again, ticket, number)
        assert near.stdout is not None
    near.kill()
    near.wait()
    near.stdin.close()  # type: ignore[union-attr]
    near.stdout.close()
    execgw.attach(ticket, Group()).exit()


def test_a_worker_whose_near_side_was_killed_ends_when_grace_is_over(processes: Any, eventually: Any) -> None:
    near = near_process(NEAR, "popen//resume=0.3", "channel.send(1)\nchannel.receive()")
    assert near.stdout is not None
    ticket, _ = near.stdout.readline().split()
    near.stdout.readline()

    near.kill()
    near.wait()

    eventually(lambda: processes() == [], "the end of worker and keeper")
    with pytest.raises(StartError, match="the session is no more"):
        execgw.attach(ticket, Group())
    near.stdin.close()  # type: ignore[union-attr]
    near.stdout.close()


# -- taking over, and being refused


def test_a_second_attach_takes_over_and_the_first_is_told(group: Group, other: Group) -> None:
    gateway = group.makegateway(SPEC)
    channel = gateway.remote_exec("for item in channel: channel.send(item)")

    attached = other.attach(gateway.ticket)
    mine = attached.channels[channel.id]
    mine.send("theirs")

    with pytest.raises(ConnectionLost, match="another process has taken it over"):
        channel.receive(WAIT)
    assert mine.receive(WAIT) == "theirs"


def test_who_was_taken_over_while_cut_off_is_told_when_it_comes_back(group: Group, other: Group) -> None:
    gateway = group.makegateway(SPEC)
    channel = gateway.remote_exec("channel.receive()")
    transport: Any = gateway._session.transport
    connector = transport.front
    reach, connector._reach = connector._reach, None  # it does not find back for now
    transport._link.raw.sock.shutdown(2)

    other.attach(gateway.ticket)
    connector._reach = reach

    with pytest.raises(ConnectionLost, match="another process has taken it over"):
        channel.receive(WAIT)


def test_a_wrong_secret_is_refused_and_the_owner_goes_on(group: Group, other: Group) -> None:
    gateway = group.makegateway(SPEC)
    facts = json.loads(base64.urlsafe_b64decode(gateway.ticket[len(TICKET) :]))
    facts["secret"] = "0" * 64
    forged = TICKET + base64.urlsafe_b64encode(json.dumps(facts).encode()).decode()

    with pytest.raises(AuthenticationFailed, match="secret"):
        other.attach(forged)

    assert gateway.call(len, "four") == 4
    assert gateway._session.transport.breaks == 0  # type: ignore[attr-defined]


def test_who_knows_the_keepers_socket_and_not_the_secret_gets_nothing(group: Group) -> None:
    gateway = group.makegateway(SPEC)
    connector: Any = gateway._session.transport.front  # type: ignore[attr-defined]

    def lie(secret: str, role: str, *words: object) -> str:
        return truth("f" * 64, role, *words) if role == "near" else truth(secret, role, *words)

    truth = front.proof
    front.proof = lie
    try:
        with pytest.raises(front.NoWayBack, match="does not take the secret"):
            connector.attach(WAIT)
    finally:
        front.proof = truth

    assert gateway.call(len, "four") == 4


def test_a_worker_that_has_ended_cannot_be_attached(group: Group) -> None:
    gateway = group.makegateway(SPEC)
    ticket = gateway.ticket
    gateway.exit()
    gateway.join()

    with pytest.raises(
        StartError, match=r"the session is no more|the worker has ended"
    ):  # its keeper may be there still
        group.attach(ticket)


def test_a_worker_that_has_died_unseen_is_told_with_its_exit_code(group: Group, eventually: Any) -> None:
    gateway = group.makegateway(SPEC)
    channel = gateway.remote_exec("import os\nchannel.receive()\nos._exit(9)")
    pid = gateway.call(os.getpid)
    channel.send(1)
    try:
        ticket = gateway.detach()
    except ConnectionLost:  # it was faster
        return
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the end of the worker")

    with pytest.raises(StartError, match="exit code 9"):
        group.attach(ticket)


@pytest.mark.parametrize("ticket", ["", "x", TICKET, TICKET + "????", TICKET + base64.b64encode(b"{}").decode()])
def test_what_is_no_ticket_is_refused(group: Group, ticket: str) -> None:
    with pytest.raises(SpecError, match="no ticket"):
        group.attach(ticket)


def test_a_ticket_is_in_no_argument_list_and_no_environment(group: Group) -> None:
    gateway = group.makegateway(SPEC)
    secret = gateway._session.transport.front.secret  # type: ignore[attr-defined]
    group.attach(gateway.detach())

    seen = b""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                seen += (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                pass

    assert secret.encode() not in seen


def test_a_killed_keeper_is_told(group: Group) -> None:
    gateway = group.makegateway(SPEC)
    channel = gateway.remote_exec("channel.receive()")
    pid = gateway.call(os.getppid)

    os.kill(pid, signal.SIGKILL)

    with pytest.raises(ConnectionLost, match="the session is no more"):
        channel.receive(WAIT)


def test_the_socket_of_a_killed_keeper_is_swept_by_the_next_one(group: Group) -> None:
    gateway = group.makegateway(SPEC)
    place = Path(f"/tmp/execgw-{os.getuid()}")
    name = hashlib.sha256(gateway._session.transport.front.id.encode()).hexdigest()[:32]  # type: ignore[attr-defined]
    os.kill(gateway.call(os.getppid), signal.SIGKILL)
    gateway.join(WAIT)
    assert (place / name).exists()
    os.utime(place / name, (0, 0))

    group.makegateway(SPEC)

    assert not (place / name).exists()


# -- the asyncio face


def test_the_asyncio_face_detaches_and_attaches(nothing_left: str) -> None:
    async def main() -> list[Any]:
        async with aio.Group() as group:
            gateway = await group.makegateway(SPEC)
            channel = await gateway.remote_exec("for item in channel: channel.send(item)")
            await channel.send(1)
            await channel.send(2)
            first = await channel.receive(WAIT)
            attached = await group.attach(await gateway.detach())
            mine = attached.channels[channel.id]
            await mine.send(3)
            return [first, await mine.receive(WAIT), await mine.receive(WAIT)]

    assert asyncio.run(main()) == [1, 2, 3]

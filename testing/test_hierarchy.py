"""ChannelGateway: gateways whose bytes go over a channel that is there already."""

from __future__ import annotations

import os
import signal

import pytest

from execgw import ChannelGateway, ClosedHere, ConnectionLost, Group, RemoteError, SpecError, StartError

MAKER = "import execgw.service; execgw.service.gatewaymaker(channel)"
ECHO = "for item in channel: channel.send(item)"


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path):
    """Where workers start there is no execgw, but for what is installed with the interpreter."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)


def below(gateway, asked: str, **options) -> ChannelGateway:
    maker = gateway.remote_exec(MAKER)
    maker.send(asked)
    return ChannelGateway(maker.receive(30), **options)


@pytest.fixture(params=["2.7.18", "3.13.0"])
def carrier(group, python, request):
    return group.makegateway(f"popen//python={python(request.param)}")


def test_the_worker_of_a_channel_gateway_is_a_process_beside_the_maker(carrier):
    sub = below(carrier, "popen//id=sub")

    assert sub.id == "sub"
    assert sub.remote_exec("import os; channel.send(os.getppid())").receive(20) == carrier._rinfo().pid


def test_it_is_a_full_gateway(carrier, group):
    sub = below(carrier, "popen//id=sub")
    behind = group.makegateway("popen//via=sub//id=behind")

    channel = sub.remote_exec(ECHO)
    for value in ({"a": [1, (2,)]}, "x" * 3_000_000, None):
        channel.send(value)
        assert channel.receive(20) == value
    assert (sub.call(len, "abc"), behind.call(len, "ab"), sub.status().queued) == (3, 2, 0)
    assert [gateway.id for gateway in group][1:] == ["sub", "behind"]
    assert set(group.terminate(10).values()) == {"asked"}


def test_one_maker_makes_many_and_they_outlive_it(carrier, group):
    maker = carrier.remote_exec(MAKER)
    for n in range(3):
        maker.send(f"popen//id=sub{n}")

    subs = [ChannelGateway(maker.receive(30)) for _ in range(3)]
    maker.close()
    maker.waitclose(20)

    assert [sub.remote_exec(f"channel.send({n})").receive(20) for n, sub in enumerate(subs)] == [0, 1, 2]


def test_what_the_spec_says_is_in_force(carrier, tmp_path):
    sub = below(carrier, f"popen//chdir={tmp_path / 'new'}//env:HELLO=a b//nice=5//dont_write_bytecode//id=x")

    channel = sub.remote_exec(
        "import os, sys; channel.send((os.getcwd(), os.environ['HELLO'], os.nice(0), sys.dont_write_bytecode))"
    )

    assert channel.receive(20) == (str(tmp_path / "new"), "a b", os.nice(0) + 5, True)


def test_another_interpreter_can_be_named(carrier, python):
    sub = below(carrier, f"popen//python={python('3.9.18')}")

    assert sub._rinfo().version_info[:2] == (3, 9)


def test_it_can_carry_further_channel_gateways(group, carrier):
    sub = below(carrier, "popen//id=a")
    subsub = below(sub, "popen//id=b")
    deepest = below(subsub, "popen//id=c")

    assert deepest.call(len, "abc") == 3
    assert list(group.tree())[-1].id == "c"


def test_the_group_and_the_spec_can_be_given(carrier):
    with Group() as other:
        sub = below(carrier, "popen", spec="popen//id=named", group=other)

        assert [gateway.id for gateway in other] == ["named"]
        assert sub.call(len, "") == 0


def test_each_way_to_fail_says_why_and_leaves_nothing(carrier, processes, eventually):
    before = len(processes())

    for spec, why in [
        ("popen//python=/no/such/python", "No such file"),
        ("popen//python=/bin/false", "ended during the start|ended before a worker was there"),
        ("ssh=host", "must begin with popen"),
        ("popen//color=red", "unknown here: color"),
        ("popen//chdir=/dev/null/x", "cannot start"),
    ]:
        with pytest.raises(StartError, match=why):
            below(carrier, spec)

    eventually(lambda: len(processes()) == before)
    assert carrier.call(len, "ab") == 2


def test_an_id_that_is_taken_is_refused(carrier, group, processes, eventually):
    before = len(processes())

    with pytest.raises(ValueError, match="already have gateway with id 'gw0'"):
        below(carrier, "popen//id=gw0")

    eventually(lambda: len(processes()) == before)


def test_a_channel_that_carries_no_worker_is_refused(popen):
    for code, why in [
        ("channel.send(b'hello\\n')", "it ended before a worker was there; it said b'hello"),
        ("channel.send(42)", "must carry bytes"),
        ("channel.send(b'x' * 100000)", "nothing of execgw.service.PROGRAM"),
        ("raise ValueError('no')", "ValueError: no"),
    ]:
        with pytest.raises(StartError, match=why):
            ChannelGateway(popen.remote_exec(code))

    with pytest.raises(StartError, match=r"within 0\.2 s"):
        ChannelGateway(popen.remote_exec("channel.receive()"), spec="popen//start_timeout=0.2")
    with pytest.raises(SpecError):
        ChannelGateway(popen.remote_exec("channel.receive()"), spec="popen//start_timeout=never")
    with pytest.raises(SpecError, match="unknown key 'colour'"):
        ChannelGateway(popen.remote_exec("channel.receive()"), spec="popen//colour=red")
    with pytest.raises(TypeError, match="needs a channel"):
        ChannelGateway("sub")  # type: ignore[arg-type]


def test_a_worker_cannot_name_packages_that_it_is_to_be_served(popen, group, tmp_path, monkeypatch):
    """The spec comes back through the worker, which may say another."""
    (tmp_path / "mypkg.py").write_text("VALUE = 42")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(StartError, match="asks for import=mypkg, and its own spec does not name that"):
        below(popen, "popen//import=mypkg//chdir=/")

    given = below(popen, "popen//chdir=/", spec="popen//import=mypkg")
    inherits = below(group.makegateway("popen//import=mypkg"), "popen//import=mypkg//chdir=/")
    for gateway in (given, inherits):
        assert gateway.remote_exec("import mypkg; channel.send(mypkg.VALUE)").receive(20) == 42


def test_nobody_else_receives_from_the_channel(popen):
    maker = popen.remote_exec(MAKER)
    maker.send("popen")
    channel = maker.receive(20)
    sub = ChannelGateway(channel)

    with pytest.raises(OSError, match="cannot receive"):
        channel.receive(0)
    with pytest.raises(TypeError):
        ChannelGateway(channel)

    assert sub.call(len, "abc") == 3


def test_code_of_the_users_own_may_carry_the_bytes(popen):
    """As the guide shows it."""
    channel = popen.remote_exec("""
        import subprocess, sys, threading
        import execgw.service
        process = subprocess.Popen(
            [sys.executable, "-c", execgw.service.PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        def out():
            for data in iter(lambda: process.stdout.read(65536), b""):
                channel.send(data)
            channel.send((process.wait(), "that was all"))
        thread = threading.Thread(target=out)
        thread.start()
        for data in channel:
            if isinstance(data, bytes):
                process.stdin.write(data)
        process.stdin.close()
        thread.join()
        process.stdout.close()
    """)

    sub = ChannelGateway(channel, spec="popen//id=own//env:HELLO=x")

    assert sub.remote_exec("import os; channel.send(os.environ['HELLO'])").receive(20) == "x"
    sub.exit()
    assert sub.join(20)


# -- endings


def test_the_death_of_its_worker_is_told_with_its_last_words(carrier):
    sub = below(carrier, "popen")
    channel = sub.remote_exec("import os; os.write(2, b'famous last words'); os.kill(os.getpid(), 9)")

    with pytest.raises(ConnectionLost, match="famous last words") as caught:
        channel.receive(20)

    assert (caught.value.signal, caught.value.exit_code) == ("SIGKILL", -9)
    assert carrier.call(len, "ab") == 2


def test_the_end_of_the_carrier_ends_it(carrier, processes, eventually):
    sub = below(carrier, "popen//id=sub")
    channel = sub.remote_exec("channel.receive()")

    carrier.exit()

    with pytest.raises(ClosedHere, match="'sub' ended with the one that it was reached through"):
        channel.receive(20)
    eventually(lambda: processes() == [])


def test_a_worker_that_hangs_is_killed_through_the_channel(popen, processes, eventually):
    sub = below(popen, "popen//id=sub")
    os.kill(sub._rinfo().pid, signal.SIGSTOP)

    how = popen._group._end([sub], 0.1)

    assert how == {"sub": "killed"}
    eventually(lambda: len(processes()) == 1)


def mixed(group, python) -> list:
    """Four workers, each of another interpreter, each below the one before."""
    top = group.makegateway(f"popen//python={python('jython')}//id=w0//start_timeout=60")
    gateways = [top]
    for n, version in enumerate(("3.13.0", "2.7.18", "3.6.15"), 1):
        gateways.append(below(gateways[-1], f"popen//python={python(version)}//id=w{n}"))
    return gateways


def test_the_death_of_the_middle_of_four_interpreters_ends_all_below_it(group, python, processes, eventually):
    gateways = mixed(group, python)
    assert [gateway._rinfo().version_info[:2] for gateway in gateways] == [(2, 7), (3, 13), (2, 7), (3, 6)]
    channels = [gateway.remote_exec("channel.receive()") for gateway in gateways]

    os.kill(gateways[1]._rinfo().pid, signal.SIGKILL)

    for channel in channels[1:]:
        with pytest.raises(ConnectionLost):
            channel.receive(20)
    eventually(lambda: len(processes()) == 1)
    assert gateways[0].call(len, "abc") == 3
    with pytest.raises(ConnectionLost, match="gateway 'w1'"):
        gateways[3].call(len, "")


def test_a_hierarchy_ends_from_below(group, python):
    gateways = mixed(group, python)

    how = group.terminate(15)

    assert list(how) == [gateway.id for gateway in reversed(gateways)]
    assert set(how.values()) == {"asked"}


def test_far_code_may_make_its_own_hierarchy_without_the_near_side(group, python):
    gateway = group.makegateway(f"popen//python={python('3.13.0')}")

    channel = gateway.remote_exec("""
        import execgw
        with execgw.Group() as group:
            maker = group.makegateway("popen").remote_exec(channel.receive())
            maker.send("popen//id=below")
            sub = execgw.ChannelGateway(maker.receive(20))
            channel.send((sub.id, sub.call(len, "abc"), sorted(group.terminate().values())))
    """)
    channel.send(MAKER)

    assert channel.receive(30) == ("below", 3, ["asked", "asked"])


def test_a_memory_gateway_can_carry_one(group):
    sub = below(group.makegateway("memory"), "popen")

    assert sub.call(len, "abc") == 3


def test_a_spec_that_is_no_text_is_refused(popen):
    maker = popen.remote_exec(MAKER)
    maker.send(42)

    with pytest.raises((StartError, RemoteError), match="a spec is text"):
        ChannelGateway(maker.receive(20))

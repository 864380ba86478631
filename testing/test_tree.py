"""Looking at gateways: group.tree(), monitors, and the commands tree, top and stack."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import stat
import subprocess
import sys

import pytest

import execgw
from execgw import Group, _monitor
from execgw._monitor import ask
from execgw._tree import COLUMNS, tree_of
from execgw.errors import ExecgwError

BUSY = """
def work():
    channel.send(None)
    while True:
        pass
work()
"""


def command(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "EXECGW_MONITOR"} | environ
    line = [sys.executable, "-W", "error", "-m", "execgw", *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False, env=env)


@pytest.fixture
def busy(group):
    """Three gateways, two of them a chain, and code that computes in the last one."""
    for spec in ("popen//id=a", "popen//id=b//via=a", "popen//id=c"):
        group.makegateway(spec)
    group["c"].remote_exec(BUSY).receive(20)
    return group


# -- as data


def test_the_tree_has_each_gateway_below_the_one_that_it_is_reached_through(busy):
    tree = busy.tree()

    assert [node.id for node in tree] == ["a", "b", "c"]
    assert [(node.id, [below.id for below in node.below]) for node in tree.nodes] == [("a", ["b"]), ("c", [])]
    assert [node.pid for node in tree] == [gateway._rinfo().pid for gateway in busy]


def test_each_node_says_what_its_worker_is_and_does(busy):
    queued = busy["b"].remote_exec("channel.send(None); channel.gateway.newchannel().receive()")
    queued.receive(20)
    queued.send(1)

    nodes = {node.id: node for node in execgw.tree(busy)}

    node = nodes["b"]
    assert (node.kind, node.state, node.host, node.tasks, node.waiting) == ("popen", "live", socket.gethostname(), 1, 1)
    assert node.python == ".".join(map(str, sys.version_info[:3]))
    assert node.memory > 1_000_000
    assert node.credit > 0
    assert 0 < node.round_trip < 20
    assert 0 < node.age < 120
    assert (nodes["c"].tasks, nodes["c"].state) == (1, "live")


def test_a_worker_that_does_not_answer_is_silent_and_a_dead_one_lost(busy):
    os.kill(busy["a"]._rinfo().pid, signal.SIGSTOP)
    os.kill(busy["c"]._rinfo().pid, signal.SIGKILL)
    busy["c"].join(20)

    states = {node.id: node.state for node in busy.tree(timeout=0.3)}

    os.kill(busy["a"]._rinfo().pid, signal.SIGCONT)
    assert states == {"a": "silent", "b": "silent", "c": "lost"}


def test_a_tree_survives_json(busy):
    tree = busy.tree()

    assert tree_of(json.loads(json.dumps(tree.as_dict()))) == tree
    with pytest.raises(ValueError, match="no tree"):
        tree_of({"pid": 1})


def test_an_empty_group_has_an_empty_tree(group):
    assert list(group.tree()) == []
    assert str(group.tree()).splitlines()[1].split() == list(COLUMNS)


@pytest.mark.parametrize("version", ["2.7.18", "3.6.15", "pypy3"])
def test_workers_of_other_pythons_are_shown(group, python, version):
    group.makegateway(f"popen//python={python(version)}")

    (node,) = group.tree(timeout=20)

    assert (node.state, node.host, node.memory > 0) == ("live", socket.gethostname(), True)


# -- for people


def test_as_text_it_has_a_line_for_each_gateway(busy):
    title, head, *lines = str(busy.tree()).splitlines()

    assert f"(pid {os.getpid()} on {socket.gethostname()})" in title
    assert head.split() == list(COLUMNS)
    assert [line.split()[:2] for line in lines] == [["a", "popen"], ["└", "b"], ["c", "popen"]]


def test_rich_shows_the_same_as_a_table(busy):
    from rich.console import Console

    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(busy.tree())
    console.file.close()

    text = console.export_text()
    assert all(name in text for name in (*COLUMNS, "└ b"))


def test_what_a_worker_says_cannot_control_the_terminal(group):
    gateway = group.makegateway("popen")
    gateway._session.about["python"] = "3\x1b[2J\x1b[31m\n[bold]"

    text = str(group.tree())

    assert "\x1b" not in text
    assert len(text.splitlines()) == 3


def test_numbers_of_any_size_that_a_worker_tells_can_be_shown(group, monkeypatch):
    gateway = group.makegateway("popen")
    status = gateway.status()
    huge = dataclasses.replace(status, memory=10**400, queued=-(10**400), cpu=float("inf"))
    monkeypatch.setattr(gateway, "status", lambda timeout: huge)
    gateway._session.about["pid"] = "9" * 5000

    (line,) = str(group.tree()).splitlines()[2:]

    assert "GiB" in line


# -- monitors


def test_a_monitor_answers_others_of_this_user(busy, tmp_path):
    path = tmp_path / "m"

    with busy.monitor(path):
        (tree,) = map(tree_of, ask(path, ask="tree")["trees"])
        stacks = ask(path, ask="stacks", gateway="c")["stacks"]

        assert [node.id for node in tree] == ["a", "b", "c"]
        assert any("in work" in text for text in stacks.values())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_the_end_of_the_group_ends_its_monitors(tmp_path):
    with Group() as group:
        group.monitor(tmp_path / "m")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"\n", "not understood"),
        (b"[]\n", "not understood"),
        (b"{}\n", "not understood: KeyError"),
        (b'{"ask": "exec"}\n', "'exec' cannot be asked"),
        (b'{"ask": "stacks", "gateway": "x"}\n', "there is no gateway 'x' in this process; there are: a, b, c"),
        (b'{"ask": ["tree"]}\n', "cannot be asked"),
        (b"[" * 4095 + b"\n", "not understood"),
        (b"\xff\n", "not understood"),
    ],
)
def test_a_monitor_refuses_what_it_does_not_know(busy, tmp_path, line, why):
    with busy.monitor(tmp_path / "m"), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(tmp_path / "m"))
        sock.sendall(line)
        with sock.makefile("rb") as lines:
            told = json.loads(lines.readline())

    assert why in told["problem"]


def test_clients_that_say_nothing_do_not_keep_others_out_for_ever(group, tmp_path):
    with group.monitor(tmp_path / "m"):
        idle = [socket.socket(socket.AF_UNIX) for _ in range(_monitor.MOST_CLIENTS)]
        for sock in idle:
            sock.connect(str(tmp_path / "m"))
        with pytest.raises(ExecgwError, match="no process answers there"):
            ask(tmp_path / "m", ask="tree")

    for sock in idle:  # close() has ended them
        sock.settimeout(20)
        assert sock.recv(1) == b""
        sock.close()


def test_a_place_that_is_taken_is_refused_but_a_dead_socket_replaced(group, tmp_path):
    (tmp_path / "file").write_text("mine")
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "left"))
    left.close()

    with group.monitor(tmp_path / "m"):
        for name in ("m", "file", "no/such/folder"):
            with pytest.raises(ExecgwError, match=r"monitor '.*': "):
                group.monitor(tmp_path / name)
        with pytest.raises(ExecgwError, match="too long"):
            group.monitor(tmp_path / ("x" * 200))
        with group.monitor(tmp_path / "left"):
            assert ask(tmp_path / "left", ask="tree") == {"trees": []}

    assert (tmp_path / "file").read_text() == "mine"


# -- from outside

PROGRAM = """
import execgw, os, sys
group = execgw.Group()
for spec in sys.argv[1:]:
    group.makegateway(spec)
channel = group[-1].remote_exec('''{busy}''')
channel.receive()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def program(nothing_left, tmp_path):
    """A running program with a monitor of its own; its folder of sockets."""
    words = [sys.executable, "-c", PROGRAM.format(busy=BUSY), "popen//id=a", "popen//id=b//via=a"]
    env = dict(os.environ, EXECGW_MONITOR=str(tmp_path))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout.readline() == "ready\n"
        yield tmp_path, process
    assert list(tmp_path.iterdir()) == []


def test_tree_shows_a_running_program(program):
    folder, process = program

    shown = command("tree", "--at", str(folder))
    told = command("tree", "--json", EXECGW_MONITOR=f"{folder}/{process.pid}.sock")

    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"pid {process.pid}" in shown.stdout
    assert "└ b" in shown.stdout
    (tree,) = map(tree_of, json.loads(told.stdout))
    assert [(node.id, node.tasks > 0) for node in tree] == [("a", True), ("b", True)]


def test_stack_shows_where_a_busy_worker_is(program):
    folder, _ = program

    done = command("stack", "--at", str(folder), "b")
    all_of_them = command("stack", "--all", "--at", str(folder), "b")
    wrong = command("stack", "--at", str(folder), "nobody")

    assert (done.returncode, done.stderr) == (0, "")
    assert "in work" in done.stdout
    assert done.stdout.count("-- ") == 1
    assert all_of_them.stdout.count("-- ") > 1
    assert (wrong.returncode, "there are: a, b" in wrong.stderr) == (1, True)


def test_top_looks_again_and_again(program):
    folder, _ = program

    done = command("top", "--at", str(folder), "--interval", "0.01", "--count", "3")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("└ b") == 3


def test_top_ends_with_the_program_that_it_watches(program):
    folder, process = program
    line = [sys.executable, "-m", "execgw", "top", "--at", f"{folder}/{process.pid}.sock", "--interval", "0.01"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as top:
        assert "pid" in top.stdout.readline()

        process.stdin.close()

        _, told = top.communicate(timeout=30)
    assert (top.returncode, "no process answers there" in told) == (1, True)


# -- commands with gateways of their own


def test_tree_shows_what_specs_lead_to():
    done = command("tree", "popen//id=hop", "2*popen//via=hop")

    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[:2] for line in done.stdout.splitlines()[2:]] == [["hop", "popen"], ["├", "gw0"], ["└", "gw1"]]


def test_without_a_place_to_look_at_each_says_what_to_give():
    for words in (["tree"], ["top"], ["stack", "gw0"]):
        done = command(*words)

        assert (done.returncode, done.stdout) == (1, "")
        assert "--at PATH of a program" in done.stderr


def test_a_place_where_nothing_listens_is_told(tmp_path):
    assert "no process answers there" in command("tree", "--at", str(tmp_path / "nothing")).stderr
    assert command("tree", "--at", str(tmp_path)).stdout == "no gateways\n"


def test_without_rich_all_of_it_works_as_text(tmp_path):
    (tmp_path / "rich.py").write_text("raise ImportError('not here')")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])

    for words in (["tree", "popen"], ["top", "--count", "1", "popen"]):
        done = command(*words, PYTHONPATH=path)

        assert (done.returncode, done.stderr) == (0, "")
        assert "gw0" in done.stdout


def test_a_process_that_inherits_the_variable_leaves_the_socket_to_the_first(nothing_left, tmp_path, monkeypatch):
    monkeypatch.setenv("EXECGW_MONITOR", str(tmp_path / "m"))
    program = "import execgw; execgw.makegateway('popen').exit()"
    with _monitor.Monitor(tmp_path / "m", list):
        done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)

        assert done.returncode == 0
        assert ask(tmp_path / "m", ask="tree") == {"trees": []}

"""pytest-xdist, unmodified, on execgw: a suite comes to the same as on execnet, and execnet is never imported."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

XDIST = "pytest-xdist==3.8.0"
ROOT = Path(__file__).parents[2]
SUITE = Path(__file__).parent / "xdist_suite"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "execgw-testing"
FAR = ["3.9.18", "3.13.0"]

pytestmark = pytest.mark.timeout(300)  # the first run installs pytest into new environments


# -- environments: a pair for each interpreter, made once and kept


def _run(*argv: object) -> None:
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"


def _make_venv(python: str, where: Path, *requirements: str) -> None:
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if uv:
        _run(uv, "venv", "-q", "-p", python, where)
        _run(uv, "pip", "install", "-q", "-p", where / "bin/python", *requirements)
    else:
        _run(python, "-m", "venv", where)
        _run(where / "bin/python", "-m", "pip", "install", "-q", *requirements)


def _ask(python: Path | str, program: str) -> str:
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@functools.cache
def _python(kind: str, base: str = sys.executable) -> str:
    """The interpreter of an environment: 'execnet' has pytest-xdist and so execnet, 'execgw' this execgw as well,
    'bare' has pytest-xdist alone.
    """
    version = _ask(base, "import sys; print('%d.%d.%d' % sys.version_info[:3])")
    there = CACHE / f"{XDIST}-python-{version}-{kind}"
    site = "lib/python{}.{}/site-packages".format(*version.split("."))
    if not there.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=CACHE))
        if kind == "execnet":
            _make_venv(base, new, XDIST, "pytest")
        else:
            model = Path(_python("execnet", base))
            _make_venv(base, new, "pytest==" + _ask(model, "import pytest; print(pytest.__version__)"))
            for name in ["*xdist*"] + ["execnet*"] * (kind == "execgw"):
                for part in (model.parents[1] / site).glob(name):
                    shutil.copytree(part, new / site / part.name)
        try:
            new.rename(there)
        except OSError:  # another run was faster
            shutil.rmtree(new)
    if kind == "execgw":
        (there / site / "execgw.pth").write_text(str(ROOT))
    return str(there / "bin/python")


# -- running the suite


class Outcome(NamedTuple):
    """What the controller of one run heard."""

    reports: Counter[str]
    warnings: Counter[str]
    exit: int
    controller: dict[str, Any]
    workers: list[dict[str, Any]]
    output: str


def _normal(text: str) -> str:
    """Without what differs between any two runs: worker numbers, addresses, the environments' paths."""
    text = re.sub(r"\bgw\d+", "gwN", text)
    text = re.sub(r"0x[0-9a-f]+", "0x...", text)
    return re.sub(rf"{re.escape(str(CACHE))}/[^/]+/", "<venv>/", text)


class Suite:
    """The suite, copied to where nothing else is."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHON", "COV", "XDIST"))}
        shutil.copytree(SUITE, directory, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)

    def pytest(self, *args: str, on: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run pytest on 'execnet' or on 'execgw', each in its own environment."""
        told = ["-p", "execgw.xdist"] if on == "execgw" else []
        argv = [_python(on), "-B", "-m", "pytest", *told, "-p", "no:cacheprovider", "-v", *args]
        return subprocess.run(
            argv,
            cwd=self.directory,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    def run(self, *args: str, on: str, **environ: str) -> Outcome:
        """Run a part of the suite, and read what its conftest.py wrote down."""
        with tempfile.TemporaryDirectory() as record:
            done = self.pytest(*args, on=on, XDIST_SUITE=record, **environ)
            output = done.stdout + done.stderr
            assert (Path(record) / "record").exists(), output
            heard = [json.loads(line) for line in (Path(record) / "record").read_text().splitlines()]
        kinds: dict[str, list[dict[str, Any]]] = {"report": [], "warning": [], "worker": [], "controller": []}
        for line in heard:
            kinds[line.pop("kind")].append(line)
        (controller,) = kinds["controller"]
        assert done.returncode == controller["exit"], output
        return Outcome(
            Counter(_normal(json.dumps(line)) for line in kinds["report"]),
            Counter(_normal(json.dumps(line)) for line in kinds["warning"]),
            done.returncode,
            controller,
            kinds["worker"],
            output,
        )


@pytest.fixture
def suite(tmp_path: Path, nothing_left: str) -> Suite:
    return Suite(tmp_path)


def _is_execgw(module: dict[str, Any]) -> bool:
    return module["modules"] == ["execnet"] and module["file"].endswith("xdist.py")


def _assert_same(on_execnet: Outcome, on_execgw: Outcome) -> None:
    assert not _is_execgw(on_execnet.controller)
    assert not any(map(_is_execgw, on_execnet.workers))
    assert on_execgw.controller["name"] == "execgw.xdist"
    assert on_execgw.controller["file"] == str(ROOT / "execgw/xdist.py")
    assert on_execgw.controller["modules"] == ["execnet"]
    assert [worker for worker in on_execgw.workers if not _is_execgw(worker)] == []
    # One by one, so that a difference is shown alone.
    assert on_execgw.reports - on_execnet.reports == Counter(), on_execgw.output
    assert on_execnet.reports - on_execgw.reports == Counter(), on_execgw.output
    assert on_execgw.warnings == on_execnet.warnings
    assert on_execgw.exit == on_execnet.exit


def _outcomes(outcome: Outcome) -> dict[str, int]:
    """How many reports said what: {'passed': 3, 'crashed': 1, ...}."""
    found: Counter[str] = Counter()
    for line in outcome.reports.elements():
        report = json.loads(line)
        crashed = "crashed while running" in report["why"]
        found["crashed" if crashed else report["outcome"]] += crashed or report["when"] == "call"
    return dict(found)


# -- the tests


@pytest.mark.parametrize("dist", ["load", "loadscope", "loadfile", "worksteal"])
def test_a_suite_comes_to_the_same_as_on_execnet(suite: Suite, dist: str) -> None:
    args = ["-n", "2", "--dist", dist, "all"]

    on_execnet, on_execgw = (suite.run(*args, on=on) for on in ("execnet", "execgw"))

    _assert_same(on_execnet, on_execgw)
    assert len(on_execgw.workers) == 2
    assert _outcomes(on_execgw) == {"passed": 39, "failed": 6, "skipped": 2}


@pytest.mark.parametrize("dist", ["load", "worksteal"])
def test_crashing_workers_are_replaced_as_on_execnet(suite: Suite, dist: str) -> None:
    # With loadscope and loadfile pytest-xdist itself may wait for ever after a crash.
    args = ["-n", "2", "--dist", dist, "crash"]

    on_execnet, on_execgw = (suite.run(*args, on=on) for on in ("execnet", "execgw"))

    _assert_same(on_execnet, on_execgw)
    assert _outcomes(on_execgw) == {"passed": 3, "crashed": 2}


@pytest.mark.parametrize(("option", "failures"), [("-x", 1), ("--maxfail=2", 2)])
def test_it_stops_after_as_many_failures_as_on_execnet(suite: Suite, option: str, failures: int) -> None:
    args = ["-n", "2", "--dist", "loadfile", option, "stop"]

    on_execnet, on_execgw = (suite.run(*args, on=on, XDIST_SUITE_STOP=str(failures)) for on in ("execnet", "execgw"))

    _assert_same(on_execnet, on_execgw)
    assert _outcomes(on_execgw) == {"passed": 5, "failed": failures}
    assert f"stopping after {failures} failures" in on_execgw.output


@pytest.mark.parametrize("version", FAR)
def test_workers_of_another_python_need_neither_execnet_nor_execgw(
    suite: Suite, version: str, python: Callable[[str], str]
) -> None:
    there = {on: _python(kind, python(version)) for on, kind in [("execnet", "execnet"), ("execgw", "bare")]}
    args = {on: ["--tx", f"2*popen//python={path}", "--dist", "load", "all"] for on, path in there.items()}

    on_execnet, on_execgw = (suite.run(*args[on], on=on, XDIST_SUITE_OWN_PATH="1") for on in ("execnet", "execgw"))

    _assert_same(on_execnet, on_execgw)
    assert {worker["prefix"] for worker in on_execgw.workers} == {str(Path(there["execgw"]).parents[1])}
    assert _outcomes(on_execgw) == {"passed": 39, "failed": 6, "skipped": 2}


def test_a_plugin_that_comes_too_late_says_so_and_names_the_cure(suite: Suite) -> None:
    suite.environ["PYTEST_PLUGINS"] = "execgw.xdist"

    done = suite.pytest("all", on="execnet", PYTHONPATH=str(ROOT))

    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout + done.stderr
    assert "execnet is imported already" in done.stderr
    assert "put -p execgw.xdist before every other -p" in done.stderr


def test_trees_are_copied_to_the_directories_of_workers(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> None:
    top = tmp_path_factory.mktemp("rsync")
    trees = [top / name for name in ("one", "two")]
    for tree in trees:
        tree.mkdir()
        (tree / f"test_{tree.name}.py").write_text(f"def test_of_{tree.name}(): assert 'elsewhere' in __file__\n")
        (tree / "left_out.bak").write_text("")
    workers = [top / "elsewhere" / name for name in ("a", "b")]
    words = ["--rsyncignore=*.bak", *(f"--rsyncdir={tree}" for tree in trees)]
    words += [word for place in workers for word in ("--tx", f"popen//chdir={place}")]

    done = suite.pytest(*words, "-v", "--dist=load", *map(str, trees), on="execgw")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "<= one/test_one.py" in done.stdout
    for place in workers:
        found = {str(path.relative_to(place)) for path in place.rglob("*")}
        assert {"one/test_one.py", "two/test_two.py"} <= found
        assert not [name for name in found if name.endswith(".bak")]


# -- the names in a worker


_IN_THE_WORKER = """
import io, sys, execnet
values = [None, -2**70, 1.5, b"b", bytearray(b"c"), u"t", [1, (2, {3})], {u"k": frozenset([4])}, channel]
bad = [object(), execnet, open, [1, {"k": sys.stderr}], type("Sub", (int,), {})(3), (x for x in ())]
def sends(value):
    try:
        out.send(value)
    except execnet.DumpError as e:
        return str(e)
def dumps(value):
    try:
        execnet.dumps(value)
    except execnet.DumpError as e:
        return str(e)
out = channel.gateway.newchannel()
file = io.BytesIO()
execnet.dump(file, values[:-1])
file.seek(0)
def sentence(function, *args):
    try:
        function(*args)
    except (AttributeError, execnet.LoadError) as e:
        return "%s: %s" % (type(e).__name__, e)
channel.send({
    "bytes": execnet.dumps(values[:-1]),
    "same": execnet.load(file) == execnet.loads(execnet.dumps(values[:-1])) == values[:-1],
    "good": [(sends(value), dumps(value)) for value in values],
    "bad": [(sends(value), dumps(value)) for value in bad],
    "names": [execnet.Channel is type(channel), channel.RemoteError is execnet.RemoteError,
              channel.TimeoutError is execnet.TimeoutError, issubclass(execnet.DumpError, execnet.DataFormatError)],
    "garbage": sentence(execnet.loads, b"garbage"),
    "absent": sentence(getattr, execnet, "Group"),
    "version": execnet.__version__,
})
"""

_IN_THE_CONTROLLER = """
import json, sys
import execgw, execgw.xdist, execnet
values = [None, -2**70, 1.5, b"b", bytearray(b"c"), "t", [1, (2, {3})], {"k": frozenset([4])}]
with execnet.Group() as group:
    told = group.makegateway(sys.argv[1]).remote_exec(sys.argv[2]).receive()
data = told.pop("bytes")  # text, if a Python 2 sent it
told["loaded"] = execnet.loads(data if isinstance(data, bytes) else data.encode("latin-1")) == values
told["ours"] = [execnet is execgw.xdist, execnet.Channel is execgw.Channel, told.pop("version") == execgw.__version__]
print(json.dumps(told))
"""


@pytest.mark.parametrize("version", ["2.7.18", "3.8.18", "3.13.0"])
def test_a_worker_without_execgw_has_the_names_that_channels_need(version: str, python: Callable[[str], str]) -> None:
    argv = [_python("execgw"), "-c", _IN_THE_CONTROLLER, f"popen//python={python(version)}", _IN_THE_WORKER]

    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told.pop("good") == [[None, None]] * 9
    for sent, dumped in told["bad"]:
        assert sent == dumped
        assert "cannot send" in sent
    assert len(told.pop("bad")) == 6
    assert told.pop("garbage").startswith("LoadError: no value starts with")
    assert "AttributeError: execnet.Group is not there: it needs execgw installed for " in told.pop("absent")
    assert told == {"same": True, "loaded": True, "names": [True] * 4, "ours": [True] * 3}

"""venv= in specs of any kind: one step more the first time, none after that."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from conftest import wait_for
from environments import (  # noqa: F401  # fixtures
    StallingIndex,
    environments_in,
    index_fixture,
    venvs_fixture,
    wheelhouse_fixture,
)

from execgw import EnvironmentFailed, Group, SpecError, XSpec
from execgw.venv import environment, memo
from execgw.venv.requirements import split
from execgw.venv.spec import VenvWrapper, wanted_by

PREFIX = "import sys; channel.send(sys.prefix)"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is told of builds."""
    lines: list[str] = []
    monkeypatch.setattr(environment, "shown", lines.append)
    return lines


def test_a_spec_with_venv_is_a_gateway_in_an_environment(group: Group, venvs: Path, wheelhouse: Path) -> None:
    spec = f"popen//venv=tools//requires=six>=1.10,<2,cowsay//wheelhouse={wheelhouse}"

    gw = group.makegateway(spec)

    found = gw.remote_exec("import six, cowsay, sys; channel.send((six.__version__, sys.prefix))").receive(10)
    assert found == ("1.16.0", str(venvs / environments_in(venvs)[0] / "env"))
    assert (str(gw.spec), gw.id, len(group)) == (spec, "gw0", 1)


def test_many_that_ask_at_the_same_time_get_one_build(
    group: Group, venvs: Path, wheelhouse: Path, told: list[str]
) -> None:
    spec = f"popen//venv=shared//requires=six//wheelhouse={wheelhouse}"

    gateways = group.makegateways([spec] * 20)

    prefixes = {gateway.remote_exec(PREFIX).receive(10) for gateway in gateways}
    assert len(prefixes) == 1 and len(environments_in(venvs)) == 1
    assert sum(line.startswith("making an environment") for line in told) == 1
    assert [gateway.id for gateway in gateways] == [f"gw{number}" for number in range(20)]
    assert len(group) == 20


def test_a_known_environment_is_started_in_at_once(
    group: Group, venvs: Path, wheelhouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = f"popen//venv=quick//wheelhouse={wheelhouse}"
    group.makegateway(spec)
    began: list[str] = []
    begin = group._begin
    monkeypatch.setattr(group, "_begin", lambda made: began.extend(map(str, made)) or begin(made))

    group.makegateway(spec)

    assert len(began) == 1 and "/env/bin/python" in began[0]


def test_an_environment_that_was_removed_is_built_again(group: Group, venvs: Path) -> None:
    gw = group.makegateway("popen//venv=gone")
    before = gw.remote_exec(PREFIX).receive(10)
    gw.exit()
    gw.join()
    shutil.rmtree(Path(before).parent)

    after = group.makegateway("popen//venv=gone").remote_exec(PREFIX).receive(10)

    assert before != after and len(environments_in(venvs)) == 1


def test_other_settings_of_the_host_are_another_environment(
    group: Group, venvs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group.makegateway("popen//venv=settings")
    monkeypatch.setenv("PIP_CONSTRAINT", "/tmp/constraints.txt")

    group.makegateway("popen//venv=settings")

    assert len(environments_in(venvs)) == 2


def test_a_memory_of_nonsense_is_no_harm(group: Group, venvs: Path) -> None:
    spec = XSpec("popen//venv=memory")
    place = memo.place_of(spec.changed(VenvWrapper.keys), wanted_by(spec))
    place.parent.mkdir()
    place.write_text('["key", "-c", "print(1)", "", "", ""]')

    gw = group.makegateway(spec)

    assert gw.remote_exec(PREFIX).receive(10).startswith(str(venvs))


def test_the_rest_of_the_spec_holds_in_the_environment(group: Group, venvs: Path, tmp_path: Path) -> None:
    gw = group.makegateway(f"popen//id=mine//venv=rest//chdir={tmp_path}//env:COLOUR=red//nice=3")

    found = gw.remote_exec("import os; channel.send((os.getcwd(), os.environ['COLOUR'], os.nice(0)))").receive(10)

    assert found == (str(tmp_path), "red", os.nice(0) + 3)
    assert gw.id == "mine" and environments_in(venvs) != []


def test_kinds_that_run_commands_and_ways_through_others_take_venv_too(group: Group, venvs: Path) -> None:
    group.makegateway("popen//id=hop")
    python = sys.executable

    gateways = group.makegateways(
        [f"popen//via=hop//venv=a//python={python}", f"cmd=env//venv=a//python={python}", "popen//venv=a"]
    )

    prefixes = {gateway.remote_exec(PREFIX).receive(10) for gateway in gateways}
    assert len(prefixes) == 1 and prefixes.pop().startswith(str(venvs))


def test_the_interpreter_is_found_among_the_words_of_python(group: Group, venvs: Path) -> None:
    gw = group.makegateway(f"popen//venv=words//python=env COLOUR=red {sys.executable} -X dev")

    found = gw.remote_exec("import os, sys; channel.send((sys.prefix, os.environ['COLOUR'], sys.flags.dev_mode))")

    prefix, *rest = found.receive(10)
    assert prefix.startswith(str(venvs)) and rest == ["red", True]


def test_one_that_fails_leaves_none_of_those_started_with_it(group: Group, venvs: Path, wheelhouse: Path) -> None:
    with pytest.raises(EnvironmentFailed, match="no-such-thing"):
        group.makegateways(["popen", f"popen//venv=a//requires=no-such-thing//wheelhouse={wheelhouse}", "popen//venv"])

    assert len(group) == 0
    assert len(group._hub.sessions) == 0 and venvs.exists()


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("memory//venv=a", "memory does not"),
        ("socket=host:1//venv=a", "create_venv_gateway"),
        ("popen//venv=../a", "is no name of an environment"),
        ("popen//venv=" + "a" * 65, "is no name of an environment"),
        ("popen//requires=-r/etc/passwd", "options are not taken"),
        ("popen//requires", "requires needs a value"),
        ("popen//venv=a//offline=yes", "offline takes no value"),
        ("popen//venv=a//index=https://me:secret@host/simple", "take no password"),
        ("popen//venv=a//python=some wrapper", "which word of python="),
        ("popen//venv=a//colour=red", "unknown key 'colour'"),
    ],
)
def test_a_wrong_spec_is_refused_with_the_reason(spec: str, why: str, group: Group, venvs: Path) -> None:
    with pytest.raises(SpecError, match=why) as caught:
        group.makegateway(spec)

    assert "secret" not in str(caught.value)
    assert len(group) == 0 and list(venvs.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("requests>=2 pytest", ["requests>=2", "pytest"]),
        ("requests>=2,<3,pytest", ["requests>=2,<3", "pytest"]),
        ("requests[socks, security] >= 2, < 3, pytest", ["requests[socks, security]>=2,<3", "pytest"]),
        ("a==1.*\nb ; python_version < '3.9'", ["a==1.*", "b ; python_version < '3.9'"]),
        ("", []),
    ],
)
def test_a_text_is_taken_apart_into_requirements(text: str, words: list[str]) -> None:
    assert split(text) == words


def test_one_that_fails_ends_the_builds_of_those_started_with_it(
    group: Group, venvs: Path, index: StallingIndex
) -> None:
    stalls = f"popen//venv=stalls//requires=six//index=http://{index.address}/simple/"

    with pytest.raises(EnvironmentFailed, match=r"no Python >=4\.2"):
        group.makegateways([stalls, "popen//venv=future//requires_python=>=4.2"])

    assert len(group._hub.sessions) == 0
    wait_for(lambda: environments_in(venvs) == [], "the end of the build", 20)

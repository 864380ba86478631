"""execgw venv list|prune|rm: what is kept where a gateway leads."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from environments import environments_in, venvs_fixture  # noqa: F401  # fixtures

from execgw import Gateway, Group
from execgw.cli import main
from execgw.venv import create_venv_gateway, environment
from execgw.venv.kept import list_environments, prune_environments, remove_environments


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "shown", None)  # the command line sets it for the process


def ended(gateway: Gateway) -> None:
    gateway.exit()
    assert gateway.join(10)


def age(venvs: Path, name: str, seconds: float) -> None:
    """Let an environment be used last so long ago."""
    lock = next(venvs.glob(f"{name}-*/lock"))
    then = lock.stat().st_mtime - seconds
    os.utime(lock, (then, then))


@pytest.fixture
def three(group: Group, venvs: Path) -> Gateway:
    """A gateway to where there are three environments: `old` and `new`, and `busy`, in which a worker runs."""
    gw = group.makegateway("popen")
    for number, name in enumerate(("old", "new")):
        ended(create_venv_gateway(gw, name))
        age(venvs, name, 100 * (2 - number))
    create_venv_gateway(gw, "busy")
    age(venvs, "busy", 300)
    return gw


def test_environments_are_listed_with_their_size_and_use(three: Gateway) -> None:
    found = list_environments(three)

    assert [(one.name, one.busy) for one in found] == [("busy", True), ("old", False), ("new", False)]
    assert all(one.size > 4096 and one.made <= one.used + 300 for one in found)


def test_what_was_not_used_for_long_is_pruned_but_what_is_in_use_stays(three: Gateway, venvs: Path) -> None:
    gone, left = prune_environments(three, seconds=150)

    assert [key.split("-")[0] for key, _ in gone] == ["old"] and left == 0
    assert sorted(name.split("-")[0] for name in environments_in(venvs)) == ["busy", "new"]


def test_the_least_recently_used_go_first_until_the_rest_is_small_enough(three: Gateway, venvs: Path) -> None:
    sizes = {one.name: one.size for one in list_environments(three)}

    gone, _ = prune_environments(three, most_bytes=sizes["busy"] + sizes["new"])

    assert [key.split("-")[0] for key, _ in gone] == ["old"]
    assert sorted(name.split("-")[0] for name in environments_in(venvs)) == ["busy", "new"]


def test_what_an_interrupted_build_has_left_is_pruned_too(three: Gateway, venvs: Path) -> None:
    left = venvs / ("cut-" + "0" * 20 + "-abcdefgh")
    (left / "env").mkdir(parents=True)

    _, cleaned = prune_environments(three, seconds=1e6)

    assert cleaned == 1 and not left.exists()


def test_environments_are_removed_by_name_unless_they_are_in_use(three: Gateway, venvs: Path) -> None:
    removed, busy, missing = remove_environments(three, ["old", "busy", "none"])

    assert [key.split("-")[0] for key in removed] == ["old"]
    assert [key.split("-")[0] for key in busy] == ["busy"]
    assert missing == ["none"]
    assert [path.name for path in venvs.iterdir() if path.name.startswith("old")] == []
    assert remove_environments(three, ["old"]) == ([], [], ["old"])


def test_the_command_lists_prunes_and_removes(three: Gateway, venvs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["venv", "list", "popen"]) == 0
    table = capfd.readouterr().out.splitlines()
    assert main(["venv", "list", "--json", "popen"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert main(["venv", "rm", "popen", "old", "busy"]) == 1
    removed, errors = capfd.readouterr()
    assert main(["venv", "prune", "--size", "1K", "popen"]) == 0
    pruned = capfd.readouterr().out

    assert table[0].split() == ["NAME", "PYTHON", "SIZE", "USED", "KEY", "REQUIREMENTS"]
    assert ["in use" in line for line in table[1:]] == [True, False, False]
    assert [one["name"] for one in facts] == ["busy", "old", "new"]
    assert removed.startswith("removed old-") and "is in use" in errors
    assert pruned.startswith("removed new-") and "1 environments removed" in pruned
    assert len(environments_in(venvs)) == 1


@pytest.mark.parametrize("words", [["list", "popen", "x"], ["rm", "popen"], ["prune", "--days", "x", "popen"]])
def test_a_wrong_command_line_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["venv", *words])

    assert caught.value.code == 2 and "usage" in capsys.readouterr().err

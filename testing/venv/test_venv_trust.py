"""Names, requirements and addresses are what they say they are, and secrets are shown nowhere."""

from __future__ import annotations

import base64
import logging
from pathlib import Path

import pytest
from environments import StallingIndex, environments_in, index_fixture, venvs_fixture  # noqa: F401  # fixtures

from execgw import EnvironmentFailed, Group, LoadError, SpecError
from execgw.venv import create_venv_gateway
from execgw.venv.environment import ask, checked
from execgw.venv.requirements import check_name, parse

SECRET = "s3cr3t-of-the-index"


@pytest.mark.parametrize("name", ["", "a/b", "a b", "a\n", "\u00e4", "a" * 65, "a;b", "a\0"])
def test_a_name_that_could_be_anything_else_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="no name of an environment"):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "..", "a" * 64])
def test_other_names_are_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "requirement",
    [
        "-r /etc/passwd",
        "--index-url=https://evil.example/simple",
        "-e .",
        "/etc/passwd",
        "./project",
        "../x",
        "~/x",
        "six @ file:///etc/passwd",
        "six @ https://example.org/six.whl",
        "six.whl",
        "six-1.0.tar.gz",
        "https://example.org/six.whl",
        "git+https://example.org/six",
        "six\n--pre",
        "six; import os",
        "six #egg",
    ],
)
def test_requirements_that_are_options_paths_or_addresses_are_refused(requirement: str) -> None:
    with pytest.raises(SpecError, match="requirement "):
        parse([requirement])


def test_paths_and_addresses_are_taken_where_they_are_allowed() -> None:
    given = ["./project", "/srv/wheels/six.whl", "six @ https://example.org/six.whl"]

    assert set(parse(given, allow_paths=True)) == set(given)


@pytest.mark.parametrize("requirement", ["-r /etc/passwd", "six @ https://me:secret@example.org/six.whl"])
def test_options_and_passwords_are_refused_even_then(requirement: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse([requirement], allow_paths=True)

    assert "secret" not in str(caught.value)


def test_requirements_are_brought_into_one_form() -> None:
    assert parse("Six >= 1.10 , <2  pytest") == parse(["pytest", "Six<2,>=1.10"])


@pytest.mark.parametrize("uv", ["auto", "no"])
def test_the_password_of_an_index_is_in_no_argument_no_line_and_no_error(
    uv: str, group: Group, venvs: Path, index: StallingIndex, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    index.stall = False
    lines: list[str] = []
    url = f"http://me:{SECRET}@{index.address}/simple/"

    with pytest.raises(EnvironmentFailed) as caught:
        create_venv_gateway(group.makegateway("popen"), "secret", "six", uv=uv, index_url=url, progress=lines.append)

    told = base64.b64decode(index.headers["Authorization"].split()[1]).decode()
    assert told == f"me:{SECRET}"  # it has reached the index
    assert any("pip" in line and "install" in line for line in index.seen)  # and this is how
    for text in [str(caught.value), caught.value.output, repr(caught.value), caplog.text, *lines, *index.seen]:
        assert SECRET not in text
    assert environments_in(venvs) == []


def test_a_password_changes_no_environment(group: Group, venvs: Path) -> None:
    gw = group.makegateway("popen")

    for user in ("me:one", "you:two"):
        create_venv_gateway(gw, "same", index_url=f"https://{user}@127.0.0.1/simple")

    assert len(environments_in(venvs)) == 1
    for path in venvs.glob("*.json"):
        assert "one" not in path.read_text()


@pytest.mark.parametrize(
    "told",
    [
        [],
        ["key", "/a", "-c", "3.9", "uv", ""],
        ["key", "/a", "relative/python", "3.9", "uv", ""],
        ["key", "/a", "/a/python\nx", "3.9", "uv", ""],
        ["key", "/a", None, "3.9", "uv", ""],
    ],
)
def test_a_worker_cannot_name_an_option_as_its_interpreter(told: list[object]) -> None:
    with pytest.raises(LoadError, match="make no sense"):
        checked(None, told)


def test_a_worker_gets_no_file_that_it_was_not_offered(
    group: Group, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gw = group.makegateway("popen")
    hostile = "def main(channel, **options):\n    channel.send(('need', ['/etc/passwd']))\n    channel.receive()\n"
    monkeypatch.setattr("execgw._bundle.task", lambda name: (hostile, name))

    with pytest.raises(LoadError, match="'/etc/passwd', which it was not offered"):
        ask(gw, "make")

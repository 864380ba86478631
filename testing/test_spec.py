"""Specs: text <-> keys, what is no spec, and what may be asked of one."""

from __future__ import annotations

import pytest

from execgw import SpecError, StartError, XSpec

KINDS = ["memory", "popen", "ssh"]


def test_keys_are_attributes_and_missing_ones_read_none():
    spec = XSpec("popen//python=python3.9//chdir=/tmp/x=y")

    assert spec.popen is True
    assert spec.python == "python3.9"
    assert spec.chdir == "/tmp/x=y"
    assert spec.ssh is None


def test_a_missing_private_name_is_an_attribute_error():
    with pytest.raises(AttributeError):
        XSpec("popen")._nothing


def test_the_text_stays_and_equality_and_hash_are_by_text():
    spec = XSpec("popen//id=a")
    spec.id = "b"

    assert str(spec) == f"{spec}" == "popen//id=a"
    assert spec == XSpec("popen//id=a") != XSpec("popen//id=b")
    assert len({spec, XSpec("popen//id=a")}) == 1
    assert spec != "popen//id=a"


def test_attributes_can_be_set():
    spec = XSpec("popen")

    spec.chdir = "there"

    assert spec.chdir == "there"
    assert spec.keys() == ["popen", "chdir"]


def test_env_keys_are_a_dict():
    spec = XSpec("popen//env:A=1//env:B=x=y//env:C=")

    assert spec.env == {"A": "1", "B": "x=y", "C": ""}


@pytest.mark.parametrize("text, part", [
    ("", "empty spec"),
    ("popen//popen", "'popen' is given twice"),
    ("popen//id=1//id=2", "'id' is given twice"),
    ("popen//env:A=1//env:A=2", "'env:A' is given twice"),
    ("popen//env:A", "env:NAME=value"),
    ("popen//env:=1", "env:NAME=value"),
    ("popen//_x=1", "is no key=value"),
    ("popen//", "is no key=value"),
    ("popen//=1", "is no key=value"),
    ("popen//a-b=1", "no name of a key"),
])  # fmt: skip
def test_what_is_no_spec_is_refused_with_the_reason(text, part):
    with pytest.raises(SpecError) as caught:
        XSpec(text)

    assert part in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("text, key, value", [
    ("http=https://host:80/path", "http", "https://host:80/path"),
    ("http=https://host//id=a", "http", "https://host"),
    ("id=a//http=http://h/x//python=p", "http", "http://h/x"),
])  # fmt: skip
def test_a_url_may_be_a_value(text, key, value):
    assert getattr(XSpec(text), key) == value


def test_check_tells_the_kind():
    assert XSpec("popen//id=x//start_timeout=3").check(KINDS, ()) == "popen"
    assert XSpec("ssh=host//mine=1").check(KINDS, ["mine"]) == "ssh"


@pytest.mark.parametrize("text, part", [
    ("id=x", "no gateway type found"),
    ("ssh=", "ssh= has no value; it needs one: ssh=..."),
    ("popen//ssh=x", "two types of gateway"),
    ("popen//pyhton=x", "unknown key 'pyhton'; did you mean 'python'?"),
    ("popen//zzzzz=x", "unknown key 'zzzzz'; known are"),
])  # fmt: skip
def test_check_refuses_what_no_gateway_understands(text, part):
    with pytest.raises(SpecError) as caught:
        XSpec(text).check(KINDS, ())

    assert part in str(caught.value)
    assert repr(text) in str(caught.value)


def test_same_filesystem_is_popen_without_chdir():
    assert XSpec("popen")._samefilesystem()
    assert not XSpec("popen//chdir=x")._samefilesystem()
    assert not XSpec("ssh=x")._samefilesystem()


@pytest.mark.parametrize("spec", [
    "popen//zzzzz=https://bob:s3cret@example.org/simple",
    "popen//zzzzz=1//env:PIP_INDEX_URL=https://bob:s3cret@example.org/simple",
    "popen//zzzzz=1//env:PIP_INDEX_URL=https://s3cret@example.org/simple",
    "popen//https://bob:s3cret@example.org/simple",
    "popen//zzzzz=1//env:DB_PASSWORD=s3cret//env:X=1",
    "popen//zzzzz=1//env:aws_secret_value=s3cret's",
    "popen//python=no-such-python//env:API_TOKEN=s3cret",
    "popen//chdir=/dev/null/x//env:GPG_KEY=s3cret",
    "id=x//env:PIP_INDEX_URL=https://bob:s3cret@example.org",
])  # fmt: skip
def test_what_is_secret_in_a_spec_shows_in_no_error(group, spec):
    with pytest.raises((SpecError, StartError)) as caught:
        group.makegateway(spec)

    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(caught.value)


def test_a_spec_shows_no_secret_and_keeps_it():
    spec = XSpec("popen//env:API_TOKEN=s3cret//env:USER=bob")

    assert repr(spec) == "<XSpec 'popen//env:API_TOKEN=***//env:USER=bob'>"
    assert spec.env == {"API_TOKEN": "s3cret", "USER": "bob"}
    assert XSpec(str(spec)) == spec


def test_a_variable_may_be_a_url():
    spec = XSpec("popen//env:PIP_INDEX_URL=https://host/simple//env:A=1//chdir=x")

    assert spec.env == {"PIP_INDEX_URL": "https://host/simple", "A": "1"}
    assert spec.chdir == "x"


def test_a_user_of_ssh_is_no_secret():
    with pytest.raises(SpecError, match="popen//ssh=bob@host"):
        XSpec("popen//ssh=bob@host").check(KINDS, ())

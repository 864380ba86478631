"""Parameters, classes, and fixtures of wider scopes."""

import pytest


@pytest.mark.parametrize("number", range(12))
def check_numbers(number):
    assert number != 5


@pytest.mark.parametrize("text", ["", "a b", "a/b::c", "\u00e4\u20ac", "line\nbreak"])
@pytest.mark.parametrize("flag", [True, None])
def check_texts(text, flag):
    assert text != "a b" or flag


@pytest.fixture(scope="class")
def numbers():
    return []


class CheckOrder:
    """--dist loadscope keeps these together."""

    def check_first(self, numbers):
        numbers.append(1)

    def check_second(self, tmp_path):
        (tmp_path / "file").write_text("x")

    class CheckInner:
        def check_inner(self):
            assert [] == {}


class CheckOthers:
    def check_one(self):
        pass

    def check_two(self, monkeypatch):
        monkeypatch.setenv("SUITE", "1")

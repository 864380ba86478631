"""What tests print, by every way out of a process."""

import logging
import os
import subprocess
import sys

import pytest


def check_prints():
    print("to stdout, \u00e4\u20ac\U0001f600")
    print("to stderr", file=sys.stderr)


def check_prints_and_fails():
    print("last words")
    print("last complaint", file=sys.stderr)
    logging.getLogger("suite").warning("logged %d", 7)
    raise AssertionError


def check_writes_to_the_descriptors():
    os.write(1, b"descriptor 1\n")
    os.write(2, b"descriptor 2\n")
    subprocess.check_call([sys.executable, "-S", "-c", "print('a child')"])


def check_reads_an_empty_stdin():
    with pytest.raises((OSError, EOFError)):
        input()


def check_captures_itself(capsys, capfd_text="seen"):
    print(capfd_text)
    assert capsys.readouterr().out == "seen\n"


def check_prints_much():
    print("0123456789" * 100000)


@pytest.fixture
def loud():
    print("setting up")
    yield
    print("tearing down")


def check_prints_in_all_phases(loud):
    print("calling")

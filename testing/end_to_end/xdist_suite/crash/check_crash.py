"""Tests that take their worker with them, right after others that have passed."""

import os
import signal


def check_before():
    print("the last words of one that passed")


def check_exits():
    os._exit(3)


def check_between():
    pass


def check_is_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def check_after():
    pass

"""Queued behind check_a.py, where nothing runs any more."""

from waiting import wait_for_the_stop


def check_1():
    wait_for_the_stop()


def check_2():
    wait_for_the_stop()

"""Waits for the first failure before it fails, too."""

from waiting import wait_for_failures


def check_1():
    wait_for_failures(1)
    raise AssertionError("the second failure")


def check_2():
    wait_for_failures(2)

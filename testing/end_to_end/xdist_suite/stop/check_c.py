"""Must never be heard of: ends only after the controller has stopped."""

from waiting import wait_for_failures


def check_1():
    wait_for_failures(2)


def check_2():
    wait_for_failures(2)

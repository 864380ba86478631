"""Queued behind check_b.py from the beginning."""

from waiting import wait_for_the_stop


def check_1():
    wait_for_the_stop()


def check_2():
    wait_for_the_stop()

"""Started beside check_a.py, and passes, for what is queued in a worker still runs."""

from waiting import wait_for_the_stop


def check_1():
    wait_for_the_stop()


def check_2():
    wait_for_the_stop()

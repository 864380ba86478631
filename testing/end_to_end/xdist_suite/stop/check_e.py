"""Never given to a worker."""

from waiting import wait_for_the_stop


def check_1():
    wait_for_the_stop()


def check_2():
    wait_for_the_stop()

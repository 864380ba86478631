"""One passes and one fails at once."""


def check_1():
    pass


def check_2():
    raise AssertionError("the first failure")

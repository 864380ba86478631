"""One that passes and two that fail; being the most, --dist loadfile starts with them."""


def check_1():
    pass


def check_2():
    raise AssertionError("the first failure")


def check_3():
    raise AssertionError("the second failure")

"""Tests that take their time, so that work can be stolen."""

import threading

import pytest


@pytest.mark.parametrize("number", range(4))
def check_slow(number):
    threading.Event().wait(0.15)

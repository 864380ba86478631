"""Waiting until the controller has heard of failures: the record in conftest.py makes a file for each."""

import os
import threading


def wait_for_failures(count):
    """Return when the controller has heard of *count* failures, or as many as make it stop."""
    count = min(count, int(os.environ["XDIST_SUITE_STOP"]))
    while not os.path.exists(os.path.join(os.environ["XDIST_SUITE"], f"failed{count}")):
        threading.Event().wait(0.01)

"""The second and later workers on a host share its one ssh connection, and need no new interpreter."""

from __future__ import annotations

import os
import shlex
import sys

from sshd import sshd_fixture  # noqa: F401


def test_the_workers_of_a_far_factory_share_one_connection(sshd, group):
    group.makegateway(f"{sshd.spec}//id=build//python={shlex.quote(sys.executable)}")
    accepted = sshd.accepted()

    workers = [group.makegateway("popen//factory=build") for _ in range(3)]

    assert len({worker.call(os.getppid) for worker in workers}) == 1
    assert sshd.accepted() == accepted == 1

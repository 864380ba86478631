"""Far log records arrive in the near side's logging."""

from __future__ import annotations

import logging
import sys

import pytest
from conftest import find_python

from execgw import Gateway, Group

SOURCE = """
import logging
logging.getLogger("app").debug("too low")
def work():
    logging.getLogger("app.part").warning("careful: %d", 5)
    try:
        1 / 0
    except ZeroDivisionError:
        logging.exception("broke")
work()
"""


@pytest.fixture(params=["popen", "2.7.18", "3.6.15", "3.13.0"])
def worker(group: Group, request: pytest.FixtureRequest) -> Gateway:
    python = sys.executable if request.param == "popen" else find_python(request.param)
    return group.makegateway(f"popen//id=w//python={python}")


def test_records_arrive_with_level_line_and_traceback(worker, caplog, eventually) -> None:
    worker.forward_logging("INFO")

    worker.remote_exec(SOURCE).waitclose(20)
    eventually(lambda: len(caplog.records) >= 2)

    careful, broke = caplog.records
    assert (careful.name, careful.levelname, careful.getMessage()) == (
        "execgw.remote.w.app.part",
        "WARNING",
        "careful: 5",
    )
    assert (careful.lineno, careful.funcName, careful.pathname) == (5, "work", "<remote exec>")
    assert broke.name == "execgw.remote.w"
    assert "ZeroDivisionError" in broke.exc_text


def test_the_level_counts_where_records_are_made(popen: Gateway, caplog, eventually) -> None:
    popen.forward_logging("ERROR")
    popen.remote_exec("import logging; channel.send(logging.getLogger('x').isEnabledFor(30))")
    assert popen.remote_exec("import logging; channel.send(logging.getLogger().isEnabledFor(30))").receive() is False

    popen.forward_logging(logging.WARNING)

    assert popen.remote_exec("import logging; channel.send(logging.getLogger().isEnabledFor(30))").receive() is True


def test_a_flood_of_records_is_told_not_kept(popen: Gateway, caplog, eventually) -> None:
    caplog.set_level("INFO")
    popen.forward_logging("INFO")

    popen.remote_exec("import logging\nfor n in range(20000): logging.info('%d', n)").waitclose(60)
    eventually(lambda: any(record.getMessage() == "19999" for record in caplog.records), seconds=20)

    told = [r.getMessage() for r in caplog.records if "dropped" in r.getMessage()]
    got = [r for r in caplog.records if r.getMessage().isdigit()]
    assert len(got) + sum(int(text.split()[0]) for text in told) == 20000


def test_what_is_no_level_is_refused(popen: Gateway) -> None:
    with pytest.raises(ValueError, match="'LOUD' is no level of logging"):
        popen.forward_logging("LOUD")

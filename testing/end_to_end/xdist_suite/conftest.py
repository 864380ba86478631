"""Writes down, in the controller, what each test came to, and who answered to the name `execnet` in each process."""

import json
import os
import sys


def _execnet():
    module = sys.modules.get("execnet")
    return {
        "name": getattr(module, "__name__", None),
        "file": getattr(module, "__file__", None),
        "modules": sorted(name for name in sys.modules if name.partition(".")[0] == "execnet"),
        "python": list(sys.version_info[:2]),
        "prefix": sys.prefix,
    }


class Record:
    """One line of JSON for each thing that the controller hears."""

    def __init__(self, directory):
        self.directory = directory

    def write(self, kind, **facts):
        with open(os.path.join(self.directory, "record"), "a") as file:
            file.write(json.dumps(dict(facts, kind=kind)) + "\n")

    def pytest_runtest_logreport(self, report):
        self.write(
            "report",
            nodeid=report.nodeid,
            when=report.when,
            outcome=report.outcome,
            why=str(report.longrepr),
            sections=report.sections,
            properties=report.user_properties,
            xfail=getattr(report, "wasxfail", None),
        )
        if report.failed:
            # The tests in stop/ wait for this file.
            have = len([name for name in os.listdir(self.directory) if name.startswith("failed")])
            open(os.path.join(self.directory, f"failed{have + 1}"), "w").close()

    def pytest_warning_recorded(self, warning_message, when, nodeid):
        message = warning_message.message
        self.write("warning", text=str(message), type=type(message).__name__, when=when, nodeid=nodeid)

    def pytest_configure_node(self, node):
        if "XDIST_SUITE_OWN_PATH" in os.environ:
            # pytest-xdist replaces the sys.path of a popen worker by the controller's, with its standard library; one
            # of another Python version then breaks, on execnet, too.
            import xdist.workermanage

            xdist.workermanage._sys_path = None

    def pytest_testnodedown(self, node, error):
        if hasattr(node, "workeroutput"):
            self.write("worker", **node.workeroutput["execnet"])

    def pytest_sessionfinish(self, exitstatus):
        self.write("controller", exit=int(exitstatus), **_execnet())


class Worker:
    """Tells the controller what there is in this worker."""

    def __init__(self, config):
        self.config = config

    def pytest_sessionfinish(self):
        self.config.workeroutput["execnet"] = _execnet()


def pytest_configure(config):
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(Worker(config))
    elif "XDIST_SUITE" in os.environ:
        config.pluginmanager.register(Record(os.environ["XDIST_SUITE"]))

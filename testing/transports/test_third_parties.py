"""A kind of gateway that another package registers under the entry-point group execgw.transports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MODULE = """
from execgw.transports.process import PopenKind


class Kind(PopenKind):
    keys = ("flavour",)

    def start(self, launch, via):
        launch.env["FLAVOUR"] = launch.spec.flavour or "plain"
        return super().start(launch, via)
"""

WRAPPER = """
class Wrapper:
    keys = ("tagged",)

    def start(self, spec, begin):
        with begin(spec.changed(self.keys, id=f"{spec.id}-first")) as first:
            found = first.remote_exec("channel.send(1)").receive()
        gateway = begin(spec.changed(self.keys))
        gateway.tag = (spec.tagged, found)
        return gateway
"""

WRAPPED = """
import execgw
with execgw.Group(["popen", "popen//tagged=one"]) as group:
    group.makegateways(["popen//tagged=two", "popen", "popen//tagged=three"])
    print([(gateway.id, getattr(gateway, "tag", None), str(gateway.spec)) for gateway in group])
try:
    execgw.makegateway("popen//taged=x")
except execgw.SpecError as e:
    print(e)
"""

SCRIPT = """
import os, execgw
with execgw.Group(["tasty//flavour=sweet", "tasty"]) as group:
    print([gateway.call(os.getenv, "FLAVOUR") for gateway in group])
for spec in ("tasty//flavor=sweet", "popen//tasty", "popen//flavour=sweet"):
    try:
        execgw.makegateway(spec)
    except execgw.SpecError as e:
        print(e)
"""


def test_a_registered_kind_is_found_with_its_keys_and_its_errors(tmp_path: Path) -> None:
    (tmp_path / "tasty_gateways.py").write_text(MODULE)
    about = tmp_path / "tasty_gateways-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tasty-gateways\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[execgw.transports]\ntasty = tasty_gateways:Kind\n")

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stderr == ""
    values, misspelt, two_kinds, foreign_key = done.stdout.splitlines()
    assert values == "['sweet', 'plain']"
    assert "did you mean 'flavour'?" in misspelt
    assert "'popen' and 'tasty' are two types of gateway" in two_kinds
    assert "popen" in foreign_key


def test_registered_keys_wrap_gateways_of_any_kind(tmp_path: Path) -> None:
    (tmp_path / "tagging.py").write_text(WRAPPER)
    about = tmp_path / "tagging-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tagging\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[execgw.wrappers]\ntagged = tagging:Wrapper\n")

    done = subprocess.run(
        [sys.executable, "-c", WRAPPED],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stderr == ""
    wrapped, misspelt = done.stdout.splitlines()
    assert wrapped == str(
        [
            ("gw0", None, "popen"),
            ("gw1", ("one", 1), "popen//tagged=one"),
            ("gw2", ("two", 1), "popen//tagged=two"),
            ("gw3", None, "popen"),
            ("gw4", ("three", 1), "popen//tagged=three"),
        ]
    )
    assert "unknown key 'taged'" in misspelt

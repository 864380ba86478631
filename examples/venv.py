"""A virtual environment through a gateway, a gateway that lives in it, and the user's own project installed there."""

import tempfile
from pathlib import Path

import execgw
from execgw.venv import SetupFile, create_venv_gateway

SETUP = "from setuptools import setup\nsetup(name='greeting', version='1.0', py_modules=['greeting'])\n"
GREETING = "import six\n\ndef hello():\n    return 'hello from a project that uses six: %s' % six.PY3\n"

with tempfile.TemporaryDirectory() as folder, execgw.Group() as group:
    project = Path(folder)
    (project / "setup.py").write_text(SETUP)
    (project / "greeting.py").write_text(GREETING)

    gw = group.makegateway("popen")  # or "ssh=codespeak.net"
    newgw = create_venv_gateway(gw, "example", "six>=1.10")
    sf = SetupFile(project / "setup.py")
    sf.sdist_remote_install(newgw)

    print(newgw.remote_exec("import greeting; channel.send(greeting.hello())").receive())
    print("in", newgw.remote_exec("import os; channel.send(os.path.basename(os.getcwd()))").receive())

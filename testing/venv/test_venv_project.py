"""SetupFile: the user's own project, built on this side, installed in the environment of a gateway."""

from __future__ import annotations

from pathlib import Path

import pytest
from environments import environments_in, venvs_fixture  # noqa: F401  # fixtures

from execgw import EnvironmentFailed, Group, SpecError
from execgw.venv import SetupFile, create_venv_gateway
from execgw.venv.kept import list_environments

C_SOURCE = """
#include <Python.h>
static PyObject *add(PyObject *self, PyObject *args) {
    long a, b;
    if (!PyArg_ParseTuple(args, "ll", &a, &b)) return NULL;
    return PyLong_FromLong(a + b);
}
static PyMethodDef methods[] = {{"add", add, METH_VARARGS, "a + b"}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "fast_sum", NULL, -1, methods};
PyMODINIT_FUNC PyInit_fast_sum(void) { return PyModule_Create(&module); }
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with an extension in C."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "setup.py").write_text(
        "from setuptools import Extension, setup\n"
        "setup(name='fast-sum', version='1.0', ext_modules=[Extension('fast_sum', ['fast_sum.c'])])\n"
    )
    (folder / "fast_sum.c").write_text(C_SOURCE)
    return folder


def test_a_project_with_a_c_extension_is_built_where_it_runs(project: Path, group: Group, venvs: Path) -> None:
    new = create_venv_gateway(group.makegateway("popen"), "deployed")

    name = SetupFile(project / "setup.py").sdist_remote_install(new)

    found = new.remote_exec("import fast_sum; channel.send((fast_sum.add(2, 40), fast_sum.__file__))").receive(30)
    assert name == "fast_sum-1.0.tar.gz"
    assert found[0] == 42 and found[1].startswith(str(venvs / environments_in(venvs)[0]))
    assert [one.installed for one in list_environments(new)] == [[name]]


def test_a_wheel_replaces_what_was_installed_before(project: Path, group: Group, venvs: Path) -> None:
    (project / "setup.py").write_text("from setuptools import setup\nsetup(name='m', version='1', py_modules=['m'])\n")
    (project / "fast_sum.c").unlink()
    new = create_venv_gateway(group.makegateway("popen"), "replaced")
    found = []

    for number in (1, 2):
        (project / "m.py").write_text(f"number = {number}\n")
        SetupFile(project).sdist_remote_install(new, form="wheel")
        found.append(
            new.remote_exec(
                "import subprocess, sys; channel.send(subprocess.check_output("
                "[sys.executable, '-c', 'import m; print(m.number)'])) "
            ).receive(30)
        )

    assert [bytes(one).strip() for one in found] == [b"1", b"2"]
    assert len(environments_in(venvs)) == 1


def test_a_project_that_does_not_build_is_told_with_its_last_lines(project: Path, group: Group) -> None:
    (project / "setup.py").write_text("raise SystemExit('out of order')\n")

    with pytest.raises(EnvironmentFailed, match=r"building .* failed") as caught:
        SetupFile(project).sdist_remote_install(group.makegateway("popen"))

    assert "out of order" in caught.value.output


def test_a_worker_in_no_environment_is_refused(project: Path, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    built = project / "fast_sum-1.0.tar.gz"
    built.write_bytes(b"not looked at")
    monkeypatch.setattr(SetupFile, "build", lambda *args: built)

    with pytest.raises(EnvironmentFailed, match="is in no virtual environment"):
        SetupFile(project).sdist_remote_install(group.makegateway("popen//python=/usr/bin/python3"))


def test_what_is_no_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"there is no pyproject\.toml or setup\.py"):
        SetupFile(tmp_path)
    with pytest.raises(SpecError, match="is no project"):
        SetupFile(tmp_path / "other.py")
    with pytest.raises(SpecError, match="there is no"):
        SetupFile(tmp_path / "setup.py")

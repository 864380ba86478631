"""Packages of the near side that a worker imports: execgw, and what import= names; and nothing else."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execgw import Group, RemoteError, SpecError, _bundle
from execgw._serving import CHUNK, Offers, names_of

PYTHONS = ["2.7.18", "3.6.15", "3.13.0"]
DATA = bytes(range(256)) * 10


@pytest.fixture
def mypkg(tmp_path, monkeypatch) -> Path:
    """A package with data that can be imported here, and not where workers start."""
    folder = tmp_path / "near" / "mypkg"
    (folder / "inner" / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text("from .inner.names import who\nVALUE = 42\n")
    (folder / "inner" / "__init__.py").write_text("")
    (folder / "inner" / "names.py").write_text(
        "import sys\n\ndef who():\n    return __name__\n\ndef fails():\n    raise ValueError(who())  # this very line\n"
    )
    (folder / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\nTEXT = u'\xe9'\n")
    (folder / "data.bin").write_bytes(DATA)
    (folder / "inner" / "deep" / "words.txt").write_text("one two\n")
    (folder / ".secret").write_text("hidden")
    (tmp_path / "canary").write_text("not served")
    (folder / "link.txt").symlink_to(tmp_path / "canary")
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


@pytest.fixture(params=PYTHONS)
def bare(request, group: Group, python, tmp_path, monkeypatch):
    """bare("import=mypkg") is a gateway to a Python in which nothing is installed, in an empty folder."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return lambda *keys: _bare(group, python(request.param), tmp_path, *keys)


@pytest.fixture
def newest(group: Group, python, tmp_path, monkeypatch):
    """The same on Python 3.13 alone."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return lambda *keys: _bare(group, python("3.13.0"), tmp_path, *keys)


def _bare(group, interpreter, tmp_path, *keys):
    return group.makegateway("//".join([f"popen//python={interpreter}//chdir={tmp_path / 'empty'}", *keys]))


def _questions(gateway) -> list[str]:
    """What the worker asks from now on."""
    asked: list[str] = []
    offers = gateway._session.offers
    answer = offers.answer
    offers.answer = lambda question: asked.append(question["number"]) or answer(question)
    return asked


# -- execgw itself


def test_code_can_import_execgw_where_it_is_not_installed(bare):
    channel = bare().remote_exec("import execgw.service as s; channel.send((s.__name__, callable(s.gatewaymaker)))")

    assert channel.receive(20) == ("execgw.service", True)


def test_importing_execgw_alone_brings_no_more_than_its_list(newest):
    gateway = newest()
    asked = _questions(gateway)

    gateway.remote_exec("import execgw").waitclose(20)

    assert [question.rpartition(":")[2] for question in asked if question.startswith("served:")] == ["execgw"]


def test_the_names_of_execgw_are_there_where_python_is_new_enough(newest):
    channel = newest().remote_exec("""
        import execgw
        from execgw import XSpec
        from _execgw.wire.errors import RemoteError
        channel.send((execgw.__version__, XSpec("popen//id=a").id, execgw.RemoteError is RemoteError))
        channel.send(hasattr(execgw, "nothing"))
    """)

    version, name, same = channel.receive(20)
    assert (version.count("."), name, same, channel.receive(20)) == (2, "a", True, False)


def test_an_old_python_is_told_what_the_names_of_execgw_need(group, python, tmp_path):
    gateway = _bare(group, python("3.8.18"), tmp_path)

    channel = gateway.remote_exec("import execgw; channel.send(execgw.__version__); execgw.Group")

    assert channel.receive(20).count(".") == 2
    with pytest.raises(RemoteError, match=r"execgw\.Group needs Python 3\.10 or newer, and this is 3\.8"):
        channel.receive(20)


def test_a_worker_that_was_served_execgw_can_be_the_near_side_of_others(newest):
    channel = newest().remote_exec("""
        import execgw
        with execgw.Group() as group:
            first = group.makegateway("popen//id=first")
            second = group.makegateway("popen//via=first")
            channel.send(second.call(len, "abc"))
            served = second.remote_exec("import execgw.service; channel.send(execgw.service.__name__)")
            channel.send(served.receive(20))
            channel.send(list(group.map(abs, [-1, -2])))
    """)

    assert [channel.receive(30) for _ in range(3)] == [3, "execgw.service", [1, 2]]
    channel.waitclose(20)


def test_an_execgw_that_is_installed_there_comes_first(newest, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "execgw.py").write_text("mine = True\n")

    channel = newest().remote_exec("import execgw; channel.send(execgw.mine)")

    assert channel.receive(20) is True


# -- import=


def test_a_package_of_the_near_side_can_be_imported(bare, mypkg):
    gateway = bare("import=mypkg")

    channel = gateway.remote_exec("""
        import mypkg, mypkg.latin
        from mypkg.inner import names
        channel.send((mypkg.VALUE, mypkg.who(), names.__name__, mypkg.latin.TEXT == u"\\xe9", mypkg.__file__))
    """)

    assert channel.receive(20) == (42, "mypkg.inner.names", "mypkg.inner.names", True, str(mypkg / "__init__.py"))


def test_what_the_near_side_does_not_have_is_known_without_asking(bare, mypkg):
    gateway = bare("import=mypkg")
    asked = _questions(gateway)

    channel = gateway.remote_exec("""
        missing = []
        for name in ("mypkg.nothing", "mypkg.inner.nothing", "mypkg.data", "mypkg.secret"):
            try:
                __import__(name)
            except ImportError:
                missing.append(name)
        channel.send(len(missing))
    """)

    assert channel.receive(20) == 4
    served = [question.rpartition(":")[2] for question in asked if question.startswith("served:")]
    assert served == ["mypkg/__init__.py", "mypkg/inner/__init__.py", "mypkg/inner/names.py"]


def test_tracebacks_show_the_lines_of_served_modules(bare, mypkg, tmp_path):
    channel = bare("import=mypkg").remote_exec("from mypkg.inner import names; names.fails()")

    with pytest.raises(RemoteError) as caught:
        channel.receive(20)

    path = mypkg / "inner" / "names.py"
    assert f'File "{path}", line 7, in fails' in caught.value.formatted
    assert "raise ValueError(who())  # this very line" in caught.value.formatted


def test_package_data_can_be_read(bare, mypkg):
    channel = bare("import=mypkg").remote_exec("""
        import pkgutil
        channel.send(bytearray(pkgutil.get_data("mypkg", "data.bin")))
        channel.send(bytearray(pkgutil.get_data("mypkg.inner", "deep/words.txt")))
    """)

    assert [channel.receive(20), channel.receive(20)] == [DATA, b"one two\n"]


@pytest.mark.parametrize("version", ["3.7.16", "3.9.18", "3.10.13", "3.13.0"])
def test_importlib_resources_reads_package_data(group, python, tmp_path, mypkg, version):
    channel = _bare(group, python(version), tmp_path, "import=mypkg").remote_exec("""
        import sys
        from importlib import resources
        if sys.version_info < (3, 10):
            channel.send((sorted(resources.contents("mypkg")), resources.read_binary("mypkg", "data.bin")))
            channel.send("one two\\n")
        else:
            root = resources.files("mypkg")
            channel.send((sorted(entry.name for entry in root.iterdir()), (root / "data.bin").read_bytes()))
            channel.send(root.joinpath("inner", "deep", "words.txt").read_text(encoding="utf-8"))
    """)

    assert channel.receive(20) == (["__init__.py", "data.bin", "inner", "latin.py"], DATA)
    assert channel.receive(20) == "one two\n"


@pytest.mark.parametrize("size", [0, CHUNK - 1, CHUNK, 2 * CHUNK + 1])
def test_a_file_of_any_size_arrives_whole(newest, mypkg, size):
    data = os.urandom(size)
    (mypkg / "large.bin").write_bytes(data)

    channel = newest("import=mypkg").remote_exec("import pkgutil; channel.send(pkgutil.get_data('mypkg', 'large.bin'))")

    assert channel.receive(20) == data


def test_a_single_module_and_several_names_can_be_given(newest, mypkg):
    (mypkg.parent / "single.py").write_text("NAME = __name__\n")

    channel = newest("import=mypkg, single").remote_exec(
        "import mypkg, single; channel.send((mypkg.VALUE, single.NAME))"
    )

    assert channel.receive(20) == (42, "single")


def test_the_near_sides_package_comes_before_one_that_is_installed_there(newest, mypkg, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "mypkg.py").write_text("VALUE = 'another'\n")

    channel = newest("import=mypkg").remote_exec("import mypkg; channel.send(mypkg.VALUE)")

    assert channel.receive(20) == 42


def test_a_worker_behind_another_is_served_too(group, newest, mypkg):
    newest("id=hop")

    behind = group.makegateway("popen//via=hop//import=mypkg")

    assert behind.remote_exec("import mypkg; channel.send(mypkg.VALUE)").receive(20) == 42


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_such_package", "no module of that name"),
        ("../etc", "no module of that name"),
        ("os.path", "no module of that name"),
        ("_socket", "it has no source"),
        ("math", "it has no source"),
    ],
)
def test_a_name_that_cannot_be_served_is_refused_before_anything_starts(group, processes, name, why):
    with pytest.raises(SpecError, match=f"import={name}: .*{why}"):
        group.makegateway(f"popen//import={name}")

    assert processes() == []


# -- what a worker must not get

TRICKS = [
    "served:1:0:mypkg/../../canary",
    "served:1:0:../canary",
    "served:1:0:mypkg/./__init__.py",
    "served:1:0:mypkg//__init__.py",
    "served:1:0:/etc/passwd",
    "served:1:0:mypkg/link.txt",
    "served:1:0:mypkg/.secret",
    "served:1:0:mypkg/inner",
    "served:1:0:mypkg/",
    "served:1:0:",
    "served:1:0:os",
    "served:1:0:os.py",
    "served:1:0:setup.cfg",
    "served:1:0:execgw/../setup.cfg",
    "served:1:-1:mypkg/data.bin",
    "served:1:99999999999999999999:mypkg/data.bin",
    "served:1:x:mypkg/data.bin",
    "served:1",
    "served:",
    "_execgw.gateway",
    "mypkg/__init__.py",
    "\0",
]


@pytest.mark.parametrize("question", TRICKS)
def test_a_trick_is_refused(newest, mypkg, question):
    gateway = newest("import=mypkg")

    channel = gateway.remote_exec("""
        server = channel.gateway._peer.on_heard.__self__
        try:
            channel.send(server.fetch_module(channel.receive()))
        except ImportError:
            channel.send(None)
    """)
    channel.send(question)

    assert channel.receive(20) is None


def test_another_gateways_package_is_not_given_out(newest, mypkg):
    newest("import=mypkg")

    channel = newest().remote_exec("import mypkg")

    with pytest.raises(RemoteError, match="No module named"):
        channel.receive(20)


def test_a_file_that_was_replaced_by_a_link_is_refused(newest, mypkg, tmp_path):
    gateway = newest("import=mypkg")
    (mypkg / "data.bin").unlink()
    (mypkg / "data.bin").symlink_to(tmp_path / "canary")

    channel = gateway.remote_exec("import pkgutil; channel.send(pkgutil.get_data('mypkg', 'data.bin'))")

    with pytest.raises(RemoteError, match="no such module is served"):
        channel.receive(20)


@given(st.text(max_size=60) | st.text("servd:019./_execgwmypktinyb", max_size=40))
def test_no_question_gets_more_than_an_answer_or_a_problem(text):
    offers = Offers()

    told = offers.answer({"verb": "module", "number": text})

    assert set(told) in ({"problem"}, {"source"})


def test_what_is_served_of_execgw_is_its_folder_and_nothing_else():
    root = Path(__file__).parent.parent / "execgw"
    told = Offers().answer({"verb": "module", "number": "served:1:0:execgw"})

    listed = base64.b64decode(told["source"]).decode().split("\n")

    on_disk = {str(path.relative_to(root.parent)) for path in root.rglob("*") if path.is_file()}
    assert listed[0] == str(root.parent)
    assert set(listed[1:]) == {path for path in on_disk if "__pycache__" not in path}


def test_both_sides_cut_files_alike():
    assert f"CHUNK = {CHUNK // 1024} * 1024" in (Path(__file__).parent.parent / "execgw/worker/served.py").read_text()


def test_names_are_taken_apart_at_commas():
    assert names_of(" a, b ,,c") == ["a", "b", "c"]
    assert names_of(None) == []


def test_what_a_nested_near_side_needs_beside_what_it_has_is_what_is_not_shipped():
    needed = {f"_{name}" for name in _bundle.NOT_SHIPPED if name.startswith("execgw.wire.")}

    assert needed == set(re.findall(r"_execgw\.wire\.\w+", (Path(_bundle.HERE) / "worker" / "served.py").read_text()))

"""What is shipped to a worker: small, true to the line, good for every Python from 2.7 on."""

from __future__ import annotations

import ast
import sys
import zlib

import pytest
from conftest import find_python

from execgw import Gateway, Group, RemoteError, _bundle

OLD = ["2.7.18", "3.6.15"]
MOST_BYTES = 16 * 1024


@pytest.fixture(params=OLD)
def old(request: pytest.FixtureRequest, group: Group) -> Gateway:
    return group.makegateway(f"popen//python={find_python(request.param)}")


def far_names() -> list[str]:
    return [f"_{name}" for name in _bundle.modules()]


def test_the_bundle_is_at_most_16_kib() -> None:
    _, data = _bundle.for_other(0)

    assert len(data) <= MOST_BYTES


def test_the_bundle_is_ascii_in_one_block() -> None:
    _, data = _bundle.for_other(0)

    zlib.decompress(data).decode("ascii")


def test_only_the_near_sides_own_modules_are_left_out() -> None:
    on_disk = {
        f"execgw.{room}.{path.stem}"
        for room in ("wire", "peer", "worker")
        for path in (_bundle.HERE / room).glob("*.py")
        if path.stem not in ("__init__", "boot")
    }

    assert set(_bundle.modules()) == on_disk - _bundle.NOT_SHIPPED
    assert on_disk >= _bundle.ON_DEMAND


def is_left_out(node: ast.AST) -> bool:
    """Docstrings, what only mypy reads, and __future__ imports, which compile() is told or nobody misses."""
    return (
        (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "False")
        or (isinstance(node, ast.ImportFrom) and node.module == "__future__")
    )


class Bare(ast.NodeTransformer):
    """Removes what a stripped source may leave out."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [item for item in body if not is_left_out(item)]  # type: ignore[attr-defined]
        return node


def bare(text: str) -> ast.AST:
    return Bare().visit(ast.parse(text))  # type: ignore[no-any-return]


def whole(far_name: str) -> str:
    return _bundle.modules()[far_name[1:]].read_text("utf-8")


@pytest.mark.parametrize("name", far_names())
def test_a_stripped_source_means_the_same(name: str) -> None:
    assert ast.dump(bare(_bundle.source(name))) == ast.dump(bare(whole(name)))


@pytest.mark.parametrize("name", far_names())
def test_a_stripped_source_keeps_its_lines(name: str) -> None:
    def lines(text: str) -> list[tuple[str, int]]:
        return [(type(node).__name__, node.lineno) for node in ast.walk(bare(text)) if isinstance(node, ast.stmt)]

    assert lines(_bundle.source(name)) == lines(whole(name))


def test_a_name_that_is_not_shipped_is_not_given_out() -> None:
    for name in ("_execgw.wire.careful", "_execgw.gateway", "_os", "os", ""):
        with pytest.raises(KeyError):
            _bundle.source(name)


# -- on old interpreters

COMPILES = """
for name, text in channel.receive():
    compile(str(text), name, 'exec', 0, True)
    channel.send(name)
"""


def test_stripped_sources_compile_there(old: Gateway) -> None:
    channel = old.remote_exec(COMPILES)
    channel.send([(name, _bundle.source(name)) for name in far_names()])

    assert list(channel) == far_names()


def test_whole_sources_compile_there(old: Gateway) -> None:
    """As an installed package has them."""
    channel = old.remote_exec("for name, text in channel.receive():\n    compile(text, name, 'exec', 0, True)")
    sources = [(str(path), path.read_text("utf-8").encode("utf-8")) for path in _bundle.modules().values()]

    channel.send(sources)

    channel.waitclose(30)


@pytest.mark.parametrize("name", far_names())
def test_every_module_can_be_imported_there(old: Gateway, name: str) -> None:
    channel = old.remote_exec(f"__import__({name!r}); import sys; channel.send(sys.modules[{name!r}].__name__)")

    assert channel.receive(10) == name


def test_modules_on_demand_are_fetched_when_they_are_imported(old: Gateway) -> None:
    fetched = old.remote_exec(
        """
        import sys
        for name in channel.receive():
            before = name in sys.modules
            __import__(name)
            channel.send((before, name, sorted(vars(sys.modules[name]))))
        """
    )
    with_others = {"execgw.peer.tracebacks", "execgw.peer.remote"}  # callbacks.py needs them
    names = sorted(f"_{name}" for name in _bundle.ON_DEMAND - with_others)

    fetched.send(names)
    told = list(fetched)

    assert [name for _, name, _ in told] == names
    assert "refusal" in {name: found for _, name, found in told}["_execgw.wire.refusal"]
    # To start and to answer needed none of them, but for what a Python before 3.8 encodes with.
    early = {name for before, name, _ in told if before}
    assert early <= {f"_execgw.wire.{name}" for name in ("trees", "trees_old", "scan", "refusal")}


def test_a_module_that_is_not_ours_cannot_be_fetched(old: Gateway) -> None:
    channel = old.remote_exec("import _execgw.wire.careful")

    with pytest.raises(RemoteError, match=r"ImportError|ModuleNotFoundError"):
        channel.receive(10)


def test_a_traceback_inside_the_bundle_shows_true_lines(old: Gateway) -> None:
    """From modules that came in the bundle, and from one that was asked for."""
    channel = old.remote_exec(
        """
        import traceback, sys
        from _execgw.wire import frames, buffers
        for function, args in ((frames.unpack_credit, (b'',)), (buffers.rebuild, ('?', (), b''))):
            try:
                function(*args)
            except Exception:
                where = traceback.extract_tb(sys.exc_info()[2])[-1]
                channel.send([item for item in where][:2])
                channel.send(traceback.format_exc())
        """
    )

    for module, text in (("frames", "CREDIT has %d bytes"), ("buffers", "a buffer of kind")):
        filename, line = channel.receive(10)
        formatted = channel.receive(10)
        source = _bundle.modules()[f"execgw.wire.{module}"].read_text("utf-8").splitlines()
        assert filename.endswith(f"{module}.py")
        assert "raise" in source[line - 1]
        assert text in source[line - 1]
        assert text in formatted  # the line itself is shown


def test_a_worker_of_this_very_interpreter_gets_compiled_code(group: Group) -> None:
    gateway = group.makegateway("popen")
    channel = gateway.remote_exec("import _execgw.wire.mux as m, sys; channel.send((m.__file__, sys.executable))")

    assert channel.receive(10) == (str(_bundle.modules()["execgw.wire.mux"]), sys.executable)


def test_nothing_of_the_near_side_is_imported_there(old: Gateway) -> None:
    channel = old.remote_exec("import sys; channel.send([m for m in sys.modules if m.partition('.')[0] == 'execgw'])")

    assert channel.receive(10) == []

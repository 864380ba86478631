"""Every >>> in the README and the documents works, every link leads somewhere, every promise has a test behind it."""

from __future__ import annotations

import doctest
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import execgw
from execgw import errors, spec, values
from execgw.peer import blocked
from execgw.transports.process import ProcessTransport
from execgw.wire import codec, frames, mux, scan

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("changelog/README.md")])
WITH_CODE = [page for page in PAGES if re.search(r"(?m)^>>> ", page.read_text("utf-8"))]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(autouse=True)
def _environments_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "execgw-testing"
    cache.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("EXECGW_VENVS", str(cache / "venvs"))


@pytest.fixture(autouse=True)
def _default_group_is_left_empty() -> Iterator[None]:
    yield
    execgw.default_group.terminate(timeout=5)


@pytest.mark.parametrize("page", WITH_CODE, ids=_name)
def test_every_example_on_a_page_works(page: Path) -> None:
    text = re.sub(r"(?m)^```.*$", "", page.read_text("utf-8"))  # a fence would be taken for output
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(verbose=False)
    page_test = parser.get_doctest(text, {"__name__": "__main__"}, _name(page), str(page), 0)
    report: list[str] = []

    found = runner.run(page_test, out=report.append)

    assert found.failed == 0, "".join(report)
    assert found.attempted > 0


def test_the_examples_in_docstrings_work() -> None:
    found = doctest.testmod(execgw)

    assert (found.failed, found.attempted > 0) == (0, True)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8"))

    broken = [link for link in links if not (page.parent / link).exists()]

    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    pattern = r"`((?:execgw|testing|examples|docs|changelog|wire|peer|worker|transports)/[\w./]*\.(?:py|md|rst))"
    named = re.findall(pattern, page.read_text("utf-8"))

    missing = [name for name in named if not ((ROOT / name).exists() or (ROOT / "execgw" / name).exists())]

    assert missing == []


def test_the_index_leads_to_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")

    unlisted = [
        _name(page)
        for page in ROOT.glob("docs/**/*.md")
        if page.name != "index.md" and str(page.relative_to(ROOT / "docs")) not in index
    ]

    assert unlisted == []


def test_the_guide_to_errors_names_every_error() -> None:
    guide = (ROOT / "docs" / "guide" / "errors.md").read_text("utf-8")

    unnamed = [name for name in errors.__all__ if name not in guide]

    assert unnamed == []


def test_the_guide_to_specs_names_every_key() -> None:
    guide = (ROOT / "docs" / "guide" / "specs.md").read_text("utf-8")

    unnamed = [key for key in (*spec.COMMON_KEYS, "popen", "memory", "env:") if f"`{key}" not in guide]

    assert unnamed == []


def _one_of(page: str, pattern: str) -> str:
    """The only place where a page says a figure."""
    found = re.findall(pattern, (ROOT / "docs" / page).read_text("utf-8"))
    assert len(found) == 1, (page, pattern, found)
    return str(found[0])


def test_the_figures_on_the_pages_are_those_of_the_code() -> None:
    assert int(_one_of("guide/flow-control.md", r"window of (\d+) MiB")) << 20 == ProcessTransport.window
    assert int(_one_of("guide/flow-control.md", r"grows up to (\d+) MiB")) << 20 == blocked.GROWN_WINDOW
    assert int(_one_of("guide/flow-control.md", r"plus (\d+) for each frame")) == mux.FRAME_COST
    assert int(_one_of("guide/values.md", r"at most (\d+) times its size")) == scan.MEMORY_FACTOR
    assert int(_one_of("guide/values.md", r"nested at most (\d+) deep")) == scan.MAX_DEPTH
    assert int(_one_of("protocol.md", r"header of (\d+) bytes")) == frames.HEADER_SIZE
    assert int(_one_of("protocol.md", r"payload of at most (\d+) MiB")) << 20 == frames.MAX_FRAME


def _hex_of(title: str) -> bytes:
    """The bytes that the protocol's page shows under a title: hex digits at the start of each line of a block."""
    page = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    block = re.search(rf"### {title}\n.*?```\n(.*?)```", page, re.DOTALL)
    assert block is not None, title
    return bytes.fromhex(" ".join(line.split("  ")[0] for line in block[1].splitlines()))


def test_the_page_shows_the_bytes_of_a_conversation() -> None:
    near = mux.Mux(first=1)
    port = near.open()
    form, source = codec.Codec().encode("channel.send(1)")
    credit = frames.pack_credit(524288)

    hello = near.hello(frames.pack_pairs({"version": "1"}))
    executed = near.header(frames.EXEC, 0, form, port.number, len(source)) + source
    form, item = codec.Codec().encode(1)
    data = near.header(frames.DATA, 0, form, port.number, len(item)) + item
    credited = near.header(frames.CREDIT, 0, 0, port.number, len(credit)) + credit
    ended = near.header(frames.END, 0, 0, port.number, 0)

    assert _hex_of("HELLO") == hello
    assert _hex_of("EXEC") == executed
    assert _hex_of("DATA") == data
    assert _hex_of("CREDIT") == credited
    assert _hex_of("END") == ended


def test_the_bytes_on_the_page_mean_what_it_says() -> None:
    far = mux.Mux(first=2)

    events = far.feed(_hex_of("HELLO") + _hex_of("EXEC") + _hex_of("DATA") + _hex_of("CREDIT") + _hex_of("END"))

    heard, task, *about_port = events
    assert (heard[0], frames.unpack_pairs(heard[2])) == (mux.HEARD, {"version": "1"})
    assert (task[0], codec.Codec().decode(task[2], b"".join(task[3]))) == (mux.TASK, "channel.send(1)")
    port = about_port[0][1]
    assert codec.Codec().decode(*far.take(port)) == 1
    assert port.allowed == mux.WINDOW + 524288
    assert port.ended


def test_the_marker_on_the_page_is_the_one_that_is_sent() -> None:
    assert _hex_of("The start marker") == frames.MARKER


def test_the_page_shows_the_bytes_of_dumps() -> None:
    assert _hex_of("dumps") == values.dumps((1, "a"))


def test_the_page_names_every_kind_of_frame_by_its_number() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    rows = {name: int(number) for number, name in re.findall(r"(?m)^\| (\d+) \| (\w+) \|", page)}

    kinds = ["HELLO", "EXEC", "DATA", "CREDIT", "END", "CLOSE", "ASK", "TELL", "BYE", "ACK"]

    assert {name: number for name, number in rows.items() if name in kinds} == {n: getattr(frames, n) for n in kinds}

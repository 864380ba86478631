"""File-like objects over channels."""

from __future__ import annotations

import pytest


def test_what_is_written_to_a_file_arrives_as_items(gw):
    channel = gw.remote_exec("""
        f = channel.makefile("w")
        f.write("one ")
        f.writelines(["two", " three"])
        f.flush()
        assert not f.isatty() and f.writable()
        f.close()
        assert f.closed
    """)

    assert "".join(channel) == "one two three"


def test_print_and_sys_stdout_work_on_a_file(gw):
    channel = gw.remote_exec("""
        import sys
        old, sys.stdout = sys.stdout, channel.makefile()
        try:
            print("hello")
        finally:
            sys.stdout = old
    """)

    assert "".join(channel) == "hello\n"


def test_a_file_reads_lines_counts_and_the_rest_over_the_borders_of_items(gw):
    channel = gw.remote_exec("for part in ['li', 'ne 1\\nline', ' 2\\n', 'abc', 'defgh', 'i']: channel.send(part)")
    file = channel.makefile("r")

    assert file.readline() == "line 1\n"
    assert file.readline() == "line 2\n"
    assert file.read(4) == "abcd"
    assert file.read() == "efghi"
    assert file.read() == ""
    assert file.readline() == ""


def test_a_file_of_bytes_is_read_as_bytes(gw):
    channel = gw.remote_exec("""
        for part in [bytearray(b"a\\nb"), bytearray(b"c")]:
            channel.send(part)
    """)
    file = channel.makefile("r")

    assert bytes(file.read()) == b"a\nbc"


def test_iterating_over_a_file_gives_its_lines(gw):
    channel = gw.remote_exec("channel.send('a\\nb'); channel.send('c\\n'); channel.send('d')")

    with channel.makefile("r") as file:
        assert list(file) == ["a\n", "bc\n", "d"]


def test_closing_a_file_closes_its_channel_only_with_proxyclose(gw):
    first, second = gw.newchannel(), gw.newchannel()

    first.makefile("w").close()
    second.makefile("w", proxyclose=True).close()

    assert not first.isclosed()
    assert second.isclosed()


def test_a_file_is_for_reading_or_writing_and_nothing_else(gw):
    with pytest.raises(ValueError, match="'w' or 'r'"):
        gw.newchannel().makefile("rw")

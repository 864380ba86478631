"""What is known here of an exception that was raised there; and the tree of errors."""

from __future__ import annotations

import builtins
import pickle

import pytest

import execgw
from execgw import RemoteError


def chained():
    try:
        {}["missing"]
    except KeyError as e:
        raise ValueError("cannot", 5) from e


def in_context():
    try:
        1 / 0
    except ZeroDivisionError:
        raise TypeError("then")  # noqa: B904


def suppressed():
    try:
        1 / 0
    except ZeroDivisionError:
        raise TypeError("then") from None


def noted():
    error = ValueError("x")
    error.add_note("first note")
    error.add_note("second note")
    raise error


def own_class():
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    raise Odd()


def unsendable():
    raise ValueError(object(), 1)


def enormous():
    raise ValueError("x" * 5_000_000)


def deep():
    def go(n):
        return go(n - 1) if n else 1 / 0

    go(100)


def _error_of(gateway: execgw.Gateway, func: object) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        gateway.call(func)
    return caught.value


# -- details


def test_type_message_and_arguments_travel(popen):
    error = _error_of(popen, chained)

    assert (error.type, error.message, error.args_there) == ("ValueError", "('cannot', 5)", ("cannot", 5))


def test_the_causes_travel_as_a_chain(popen):
    error = _error_of(popen, chained)

    assert isinstance(error.cause, RemoteError)
    assert (error.cause.type, error.cause.args_there) == ("KeyError", ("missing",))
    assert error.cause.cause is None


def test_the_context_is_the_cause_unless_it_is_suppressed(popen):
    assert _error_of(popen, in_context).cause.type == "ZeroDivisionError"
    assert _error_of(popen, suppressed).cause is None


def test_notes_travel(group, python):
    gateway = group.makegateway(f"popen//python={python('3.13.0')}")

    error = _error_of(gateway, noted)

    assert error.notes == ["first note", "second note"]
    assert "second note" in error.formatted


def test_file_and_line_are_those_of_this_file(popen):
    error = _error_of(popen, deep)

    assert error.filename == __file__
    assert error.lineno == deep.__code__.co_firstlineno + 2
    assert f'File "{__file__}", line {error.lineno}' in error.formatted
    assert "return go(n - 1) if n else 1 / 0" in error.formatted


def test_the_traceback_begins_with_the_users_code(popen):
    error = _error_of(popen, deep)

    lines = error.formatted.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert __file__ in lines[1]


def test_str_formatted_and_traceback_are_the_far_traceback(gw):
    with pytest.raises(RemoteError) as caught:
        gw.remote_exec("raise ValueError('x')").waitclose(10)

    error = caught.value
    assert str(error) == error.formatted == error.traceback
    assert error.formatted.rstrip().endswith("ValueError: x")
    assert repr(error).startswith("RemoteError: Traceback")


def test_every_kind_of_worker_tells_type_message_args_and_line(gw):
    with pytest.raises(RemoteError) as caught:
        gw.remote_exec("import json\n\njson.loads('{')\n").waitclose(10)

    error = caught.value
    assert error.type in ("ValueError", "json.decoder.JSONDecodeError")
    assert error.message
    assert error.lineno
    assert "<remote exec>" in error.formatted


def test_an_exception_that_cannot_be_shown_is_told_all_the_same(popen):
    error = _error_of(popen, own_class)

    assert "Odd" in error.type
    assert "unprintable" in error.message


def test_arguments_that_cannot_travel_are_left_out(popen):
    error = _error_of(popen, unsendable)

    assert error.args_there is None
    assert error.message.startswith("(<object object")


def test_an_enormous_exception_is_cut(popen):
    error = _error_of(popen, enormous)

    assert error.type == "ValueError"
    assert len(str(error)) < 1_000_000
    assert popen.call(len, "ab") == 2


def test_warn_writes_to_stderr(popen, capsys):
    _error_of(popen, chained).warn()

    assert "unhandled RemoteError" in capsys.readouterr().err


def test_a_remote_error_of_a_remote_error_keeps_its_text(group):
    group.makegateway("popen//id=master")
    channel = group["master"].remote_exec("""
        other = channel.receive()
        try:
            other.receive()
        except channel.RemoteError as e:
            raise ValueError("passed on: " + e.message)
    """)
    other = group["master"].newchannel()
    channel.send(other)

    other.close("from the near side")

    with pytest.raises(RemoteError, match="passed on: from the near side") as caught:
        channel.waitclose(10)
    assert caught.value.cause.type == "execgw.RemoteError"


# -- the tree


def test_the_builtin_errors_that_users_catch_catch_ours():
    assert issubclass(execgw.TimeoutError, (builtins.TimeoutError, OSError))
    assert issubclass(execgw.TimeoutError, builtins.TimeoutError)
    assert issubclass(execgw.ConnectionLost, OSError) and issubclass(execgw.ConnectionLost, EOFError)
    assert issubclass(execgw.ChannelClosed, EOFError) and not issubclass(execgw.ChannelClosed, OSError)
    assert issubclass(execgw.SpecError, ValueError)
    assert issubclass(execgw.DumpError, execgw.DataFormatError) and issubclass(execgw.DataFormatError, ValueError)
    assert issubclass(execgw.SendBlocked, OSError)
    assert issubclass(execgw.HostNotFound, execgw.StartError)


def test_every_public_error_is_of_one_root():
    for name in execgw.errors.__all__:
        assert issubclass(getattr(execgw.errors, name), execgw.ExecgwError), name


def test_channel_has_the_errors_that_users_catch():
    assert execgw.Channel.RemoteError is RemoteError
    assert execgw.Channel.TimeoutError is execgw.TimeoutError


def test_errors_can_be_pickled_with_what_they_know():
    error = execgw.StartError("text", 3, "stderr")
    lost = execgw.ConnectionLost("lost")
    lost.exit_code = 4

    for one, attribute, value in ((error, "exit_code", 3), (lost, "exit_code", 4)):
        again = pickle.loads(pickle.dumps(one))
        assert str(again) == str(one)
        assert getattr(again, attribute) == value
    remote = RemoteError("formatted", {"type": "ValueError", "message": "m"})
    assert pickle.loads(pickle.dumps(remote)).type == "ValueError"

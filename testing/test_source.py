"""Which functions can be sent: those that use nothing but what goes with them; no false alarms; errors that help."""

from __future__ import annotations

import collections
import json
import json as renamed
import os.path
from json import loads
from typing import Any

import pytest

import execgw

GLOBAL = 5


def remember(func):
    return func


# -- what may be sent


def with_comprehensions(channel):
    rows = [x * y for x in range(3) for y in range(2)]
    names = {str(k): v for k, v in enumerate(rows)}
    channel.send((rows, names, {z + 1 for z in rows}, sum(w for w in rows)))


def with_nested_functions(channel, base):
    def add(number, more=1):
        return number + base + more

    class Local:
        size = 3

        def get(self):
            return self.size

    channel.send([add(1), (lambda q: q + base)(2), Local().get()])


def with_annotations(channel, a: Any = 1, *args: dict[str, Any], b: "collections.abc.Mapping[str, int]" = None, **kw: Any) -> Any:  # fmt: skip # noqa: E501, UP037, RUF013
    channel.send((a, args, b, kw))


def with_annotations_on_many_lines(
    channel: execgw.Channel,
    value: collections.OrderedDict[
        str,
        Any,
    ],
    # a comment: with -> arrows
    text: str = "a -> b",
) -> collections.OrderedDict[
    str,
    Any,
]:
    channel.send((value, text))
    raise ValueError("line")


@remember
@(lambda func: func)
def with_decorators(channel):
    channel.send("decorated")


def with_variable_annotations(channel):
    value: dict[str, Any] = {"a": 1}
    channel.send(value)


def with_annotations_inside(channel):
    def inner(a: Any, b: "no such name" = 1) -> collections.OrderedDict:  # noqa: F722
        found: collections.OrderedDict
        found = a + b
        return found

    class Local:
        size = 3
        twice = size * 2

    number: Any = inner(1)
    channel.send((number, Local.twice))


def with_own_imports(channel):
    import os as system
    from json import dumps

    channel.send(dumps(system.sep))


def with_a_global_statement(channel):
    global counter
    counter = 1
    counter += 1
    channel.send(counter)


def with_exceptions(channel):
    try:
        raise KeyError("x")
    except KeyError as error:
        channel.send(str(error))


def with_umlauts(channel, value: Größe = "ü"):  # noqa: F821
    größe = value + "ß"
    channel.send(größe)


def with_a_default(channel, value=[1, 2], other=len("abc")):  # noqa: B006, B008
    channel.send((value, other))


def recursive(channel, n):
    channel.send(n)
    if n:
        recursive(channel, n - 1)


@pytest.mark.parametrize("func, kwargs, items", [
    (with_comprehensions, {}, [([0, 0, 0, 1, 0, 2], {"0": 0, "1": 0, "2": 0, "3": 1, "4": 0, "5": 2}, {1, 2, 3}, 3)]),
    (with_nested_functions, {"base": 10}, [[12, 12, 3]]),
    (with_annotations, {"b": {"x": 1}, "more": 2}, [(1, (), {"x": 1}, {"more": 2})]),
    (with_decorators, {}, ["decorated"]),
    (with_variable_annotations, {}, [{"a": 1}]),
    (with_annotations_inside, {}, [(2, 6)]),
    (with_own_imports, {}, ['"/"']),
    (with_a_global_statement, {}, [2]),
    (with_exceptions, {}, ["'x'"]),
    (with_umlauts, {}, ["üß"]),
    (with_a_default, {}, [([1, 2], 3)]),
    (recursive, {"n": 2}, [2, 1, 0]),
], ids=lambda value: getattr(value, "__name__", ""))  # fmt: skip
def test_a_function_without_foreign_names_can_be_sent(popen, func, kwargs, items):
    assert list(popen.remote_exec(func, **kwargs)) == items


def test_annotations_on_many_lines_are_left_out_and_the_lines_stay_true(popen):
    channel = popen.remote_exec(with_annotations_on_many_lines, value={"a": 1})

    assert channel.receive() == ({"a": 1}, "a -> b")
    with pytest.raises(execgw.RemoteError) as caught:
        channel.receive()
    first = with_annotations_on_many_lines.__code__.co_firstlineno
    assert caught.value.lineno == first + 13
    assert caught.value.filename == __file__
    assert 'raise ValueError("line")' in str(caught.value)


def test_a_decorated_function_has_true_lines_too(popen):
    @remember
    @remember
    def fails(channel):
        raise ValueError("here")

    with pytest.raises(execgw.RemoteError) as caught:
        popen.remote_exec(fails).waitclose()

    assert caught.value.lineno == fails.__code__.co_firstlineno + 3


def test_a_function_inside_of_a_function_or_class_can_be_sent(popen):
    class Home:
        def method_like(channel, value):
            channel.send(value + 1)

    def inner(channel):
        channel.send("inner")

    assert popen.remote_exec(Home.method_like, value=1).receive() == 2
    assert popen.remote_exec(inner).receive() == "inner"


# -- what may not


def uses_global(channel):
    channel.send(GLOBAL)


def uses_module(channel):
    channel.send(json.dumps(1))


def uses_renamed_module(channel):
    channel.send(renamed.dumps(1))


def uses_dotted_module(channel):
    channel.send(os.path.sep)


def uses_imported_function(channel):
    channel.send(loads("1"))


def uses_installed_module(channel):
    channel.send(pytest.__version__)


def uses_other_function(channel):
    channel.send(remember(1))


def uses_unknown(channel):
    channel.send(unknown_name)  # noqa: F821


def uses_global_in_nested(channel):
    def inner():
        return [GLOBAL for _ in range(2)]

    channel.send(inner())


def uses_global_in_default(channel, value=GLOBAL):
    channel.send(value)


@pytest.mark.parametrize("func, parts", [
    (uses_global, ["GLOBAL", "pass 'GLOBAL' as an argument"]),
    (uses_module, ["json", "put `import json` inside the function"]),
    (uses_renamed_module, ["renamed", "put `import json as renamed` inside the function"]),
    (uses_dotted_module, ["os", "put `import os` inside the function"]),
    (uses_imported_function, ["loads", "put `from json import loads` inside the function"]),
    (uses_installed_module, ["pytest", "put `import pytest` inside the function", "installed there"]),
    (uses_other_function, ["remember", "define 'remember' inside it"]),
    (uses_unknown, ["unknown_name", "not defined here either"]),
    (uses_global_in_nested, ["GLOBAL"]),
], ids=lambda value: getattr(value, "__name__", ""))  # fmt: skip
def test_a_function_with_foreign_names_is_refused_with_the_cure(popen, func, parts):
    with pytest.raises(ValueError) as caught:
        popen.remote_exec(func)

    text = str(caught.value)
    assert func.__name__ in text
    assert [part for part in parts if part not in text] == []


def test_a_default_value_that_is_a_global_is_refused(popen):
    with pytest.raises(ValueError, match="GLOBAL"):
        popen.remote_exec(uses_global_in_default)


def test_a_lambda_a_closure_and_a_wrong_first_argument_are_refused(popen):
    outside = 1

    def closure(channel):
        channel.send(outside)

    def wrong(other):
        pass

    def nothing():
        pass

    with pytest.raises(ValueError, match="lambda"):
        popen.remote_exec(lambda channel: None)
    with pytest.raises(ValueError, match="uses outside of the function around it"):
        popen.remote_exec(closure)
    for func in (wrong, nothing):
        with pytest.raises(ValueError, match="must be called `channel`"):
            popen.remote_exec(func)


def test_a_function_without_source_is_refused(popen):
    namespace: dict = {}
    exec("def made(channel): pass", namespace)

    with pytest.raises(ValueError, match="cannot find the source of 'made'"):
        popen.remote_exec(namespace["made"])


def test_the_check_runs_before_anything_is_sent(popen):
    before = popen._session.mux.seq

    with pytest.raises(ValueError):
        popen.remote_exec(uses_global)

    assert popen._session.mux.seq == before


def test_functions_run_on_old_pythons_although_they_are_annotated_here(group, python):
    for version in ("2.7.18", "3.6.15"):
        gateway = group.makegateway(f"popen//python={python(version)}")

        assert gateway.remote_exec(with_decorators).receive() == "decorated"
        assert gateway.remote_exec(with_annotations_inside).receive() == (2, 6)
        assert gateway.call(annotated_sum, 1, 2) == 3


def annotated_sum(a: int | None, b: list[int] | int = 0) -> int | None:
    return a + b

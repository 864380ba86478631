"""The queue of one process, without a server."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from execgw.http.messages import COST, VALUE, Hole, Message, Messages

BOUND = 10 * (COST + 100)


def _put(messages, count, size=100):
    for _ in range(count):
        messages.put(1, VALUE, 1, b"x" * size)


def test_messages_are_numbered_from_one_and_taken_in_order():
    messages = Messages(BOUND)

    _put(messages, 3)

    assert [messages.take().seq for _ in range(3)] == [1, 2, 3]
    assert (messages.take(), messages.size) == (None, 0)


def test_it_is_full_at_half_of_its_bound():
    messages = Messages(BOUND)

    _put(messages, 4)
    before = messages.full
    _put(messages, 1)

    assert (before, messages.full) == (False, True)


def test_with_after_a_message_stays_until_it_is_acknowledged():
    messages = Messages(BOUND)
    _put(messages, 3)

    assert [messages.after(0).seq, messages.after(0).seq, messages.after(2).seq] == [1, 1, 3]
    messages.acknowledge(2)

    assert (len(messages), messages.after(2).seq, messages.after(3)) == (1, 3, None)


def test_what_was_dropped_is_told_once_to_who_takes():
    messages = Messages(BOUND)
    _put(messages, 7)

    messages.make_room()

    assert messages.take() == Hole(3, 4)
    assert messages.take().seq == 4


def test_what_was_dropped_is_told_to_who_asks_for_it_until_he_goes_on_behind():
    messages = Messages(BOUND)
    _put(messages, 7)
    messages.make_room()

    assert [messages.after(0), messages.after(1), messages.after(1)] == [Hole(3, 4), Hole(2, 4), Hole(2, 4)]
    assert messages.after(3).seq == 4


def test_what_went_into_a_stream_makes_room_before_anything_is_called_full():
    messages = Messages(BOUND)
    _put(messages, 5)

    messages.pushed(3)

    assert not messages.full
    assert messages.dropped == 0
    assert messages.after(0) == Hole(1, 2)


def test_a_message_that_is_put_back_is_the_next():
    messages = Messages(BOUND)
    _put(messages, 2)
    first = messages.take()

    messages.put_back(first)

    assert [messages.take().seq, messages.take().seq] == [1, 2]


@given(st.lists(st.sampled_from(["put", "take", "read", "ack", "push", "room"]), max_size=80))
def test_a_reader_gets_each_message_or_learns_that_it_was_dropped_and_the_bound_holds(steps):
    messages = Messages(BOUND)
    has, told = 0, 0  # all up to here, by after()
    for step in steps:
        if step == "put" and not messages.full:
            _put(messages, 1, 300)
        elif step == "read":
            found = messages.after(has)
            if isinstance(found, Hole):
                assert found.first == has + found.dropped + 1
                told, has = told + found.dropped, found.first - 1
            elif isinstance(found, Message):
                assert found.seq == has + 1
                has = found.seq
        elif step == "ack":
            messages.acknowledge(has)
        elif step == "push":
            messages.pushed(has)
        elif step == "room":
            messages.make_room()
        assert messages.size <= BOUND
        assert messages.size == sum(message.cost for message in messages._kept)
    while (found := messages.after(has)) is not None:
        has = found.first - 1 if isinstance(found, Hole) else found.seq
    assert has == messages.newest

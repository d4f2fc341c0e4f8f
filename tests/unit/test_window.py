from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from outhaul.amqp.window import TagOutOfRangeError, Window

MOST = 500


def window(messages: int = MOST, size: int = 10_000_000) -> Window[str]:
    return Window(max_messages=messages, max_bytes=size)


def filled(count: int) -> Window[str]:
    made = window()
    for n in range(1, count + 1):
        assert made.add(f"item {n}", f"id {n}", 10, float(n)) == n
    return made


def test_tags_are_counted_from_one() -> None:
    assert window().add("a", "a", 1, 0.0) == 1


def test_an_ack_of_one_tag_settles_that_one_alone() -> None:
    made = filled(3)
    assert made.ack(2, multiple=False).confirmed == ["item 2"]
    assert len(made) == 2


def test_a_multiple_ack_settles_everything_up_to_its_tag() -> None:
    made = filled(5)
    assert made.ack(3, multiple=True).confirmed == ["item 1", "item 2", "item 3"]
    assert made.close() == ["item 4", "item 5"]


def test_a_multiple_ack_after_single_ones_settles_only_the_rest() -> None:
    made = filled(5)
    made.ack(2, multiple=False)
    made.ack(4, multiple=False)
    assert made.ack(5, multiple=True).confirmed == ["item 1", "item 3", "item 5"]
    assert len(made) == 0


def test_a_multiple_nack_is_no_ack() -> None:
    made = filled(3)
    assert made.nack(2, multiple=True) == ["item 1", "item 2"]
    assert made.ack(3, multiple=True).confirmed == ["item 3"]


def test_a_returned_message_is_not_sent() -> None:
    made = filled(3)
    made.returned("id 2", "312 NO_ROUTE")
    confirmed, unroutable = made.ack(3, multiple=True)
    assert confirmed == ["item 1", "item 3"]
    assert unroutable == [("item 2", "312 NO_ROUTE")]


def test_a_return_marks_only_messages_published_before_it() -> None:
    made = window()
    made.add("first", "same", 1, 0.0)
    made.returned("same", "312 NO_ROUTE")
    assert made.ack(1, multiple=False).unroutable == [("first", "312 NO_ROUTE")]
    made.add("second", "same", 1, 0.0)
    assert made.ack(2, multiple=False).confirmed == ["second"]


def test_two_of_one_id_in_flight_are_both_unsent_when_one_returns() -> None:
    made = window()
    made.add("first", "same", 1, 0.0)
    made.add("second", "same", 1, 0.0)
    made.returned("same", "312 NO_ROUTE")
    assert made.ack(2, multiple=True).confirmed == []


def test_a_return_outlives_the_acks_of_other_messages() -> None:
    made = filled(2)
    made.returned("id 1", "312 NO_ROUTE")
    assert made.ack(2, multiple=False).confirmed == ["item 2"]
    assert made.ack(1, multiple=False).unroutable == [("item 1", "312 NO_ROUTE")]


def test_returns_are_forgotten_once_everything_before_them_is_settled() -> None:
    made = window()
    for n in range(10_000):
        tag = made.add("item", f"id {n}", 1, 0.0)
        made.returned(f"id {n}", "312 NO_ROUTE")
        made.ack(tag, multiple=False)
    assert (len(made._returned), len(made._purge)) == (0, 0)


def test_a_closed_window_knows_nothing_of_what_was_pending() -> None:
    made = filled(3)
    made.ack(2, multiple=False)
    assert made.close() == ["item 1", "item 3"]
    assert (len(made), made.pending_bytes, made.close()) == (0, 0, [])


@pytest.mark.parametrize("tag", [0, -1, 4])
def test_a_tag_that_was_never_given_is_an_error_and_settles_nothing(tag: int) -> None:
    made = filled(3)
    with pytest.raises(TagOutOfRangeError):
        made.ack(tag, multiple=True)
    with pytest.raises(TagOutOfRangeError):
        made.nack(tag, multiple=False)
    assert len(made) == 3


def test_a_second_ack_of_a_tag_settles_nothing() -> None:
    made = filled(2)
    made.ack(1, multiple=False)
    assert made.ack(1, multiple=False).confirmed == []
    assert made.ack(1, multiple=True).confirmed == []
    assert len(made) == 1


def test_a_window_is_bounded_in_messages_and_in_bytes() -> None:
    made = window(messages=2, size=100)
    assert made.has_room(100)
    made.add("a", "a", 60, 0.0)
    assert made.has_room(40)
    assert not made.has_room(41)
    made.add("b", "b", 10, 0.0)
    assert not made.has_room(1)


def test_a_message_bigger_than_the_window_goes_alone() -> None:
    made = window(size=100)
    assert made.has_room(1000)
    made.add("big", "big", 1000, 0.0)
    assert not made.has_room(0)


def test_the_oldest_message_decides_whether_a_confirm_is_overdue() -> None:
    made = filled(3)  # published at 1.0, 2.0 and 3.0
    assert not made.overdue(6.0, 5.0)
    assert made.overdue(6.1, 5.0)
    made.ack(1, multiple=False)
    assert made.oldest_age(6.1) == pytest.approx(4.1)
    assert made.age_of(3, 6.0) == 3.0
    made.ack(3, multiple=True)
    assert made.oldest_age(100.0) == 0.0


@given(st.lists(st.tuples(st.integers(1, 200), st.booleans(), st.booleans()), max_size=100))
@settings(max_examples=200, deadline=None)
def test_every_message_is_settled_once_whatever_the_order(answers: list[tuple[int, bool, bool]]) -> None:
    made = filled(200)
    seen: list[str] = []
    for tag, multiple, positive in answers:
        if positive:
            seen += made.ack(tag, multiple=multiple).confirmed
        else:
            seen += made.nack(tag, multiple=multiple)
    seen += made.close()
    assert sorted(seen) == sorted(f"item {n}" for n in range(1, 201))


class Model(RuleBasedStateMachine):
    """The window against the plainest model: a list of what is unsettled, searched from end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.window: Window[int] = Window(max_messages=MOST, max_bytes=1000)
        self.pending: dict[int, tuple[str, int, float]] = {}
        self.marked: set[int] = set()
        self.last = 0
        self.now = 0.0

    @rule(message_id=st.sampled_from("abcdefgh"), size=st.integers(0, 300), wait=st.floats(0, 5))
    def publish(self, message_id: str, size: int, wait: float) -> None:
        self.now += wait
        total = sum(each[1] for each in self.pending.values())
        fits = len(self.pending) < MOST and (total + size <= 1000 or not self.pending)
        assert self.window.has_room(size) == fits
        if fits:
            self.last += 1
            assert self.window.add(self.last, message_id, size, self.now) == self.last
            self.pending[self.last] = (message_id, size, self.now)

    @rule(message_id=st.sampled_from("abcdefgh"))
    def come_back(self, message_id: str) -> None:
        self.window.returned(message_id, "why")
        self.marked |= {tag for tag, each in self.pending.items() if each[0] == message_id}

    def settle(self, data: st.DataObject) -> tuple[int, bool, list[int]]:
        tag = data.draw(st.integers(1, self.last))
        multiple = data.draw(st.booleans())
        return tag, multiple, [t for t in sorted(self.pending) if t == tag or (multiple and t < tag)]

    @precondition(lambda self: self.last > 0)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        tag, multiple, expected = self.settle(data)
        confirmed, unroutable = self.window.ack(tag, multiple=multiple)
        assert confirmed == [t for t in expected if t not in self.marked]
        assert unroutable == [(t, "why") for t in expected if t in self.marked]
        for each in expected:
            del self.pending[each]

    @precondition(lambda self: self.last > 0)
    @rule(data=st.data())
    def nack(self, data: st.DataObject) -> None:
        tag, multiple, expected = self.settle(data)
        assert self.window.nack(tag, multiple=multiple) == expected
        for each in expected:
            del self.pending[each]

    @rule()
    def lose_the_channel(self) -> None:
        assert self.window.close() == sorted(self.pending)
        self.pending.clear()
        self.marked.clear()

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.window) == len(self.pending)
        assert self.window.pending_bytes == sum(each[1] for each in self.pending.values())
        oldest = min((each[2] for each in self.pending.values()), default=self.now)
        assert self.window.oldest_age(self.now) == pytest.approx(self.now - oldest)


TestWindowAgainstModel = Model.TestCase
TestWindowAgainstModel.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)

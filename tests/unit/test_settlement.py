from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outhaul.consuming.settlement import Ack, Settlement


class Channel:
    """The broker's side of one channel, as RabbitMQ counts: a tag it does not hold closes the channel."""

    def __init__(self, size: int) -> None:
        self.unacked = set(range(1, size + 1))
        self.acked: list[int] = []

    def take(self, acks: list[Ack]) -> None:
        for ack in acks:
            assert ack.tag in self.unacked, f"unknown delivery tag {ack.tag}"
            taken = {tag for tag in self.unacked if tag <= ack.tag} if ack.multiple else {ack.tag}
            self.unacked -= taken
            self.acked += sorted(taken)


def delivered(size: int) -> Settlement:
    settlement = Settlement()
    for tag in range(1, size + 1):
        settlement.delivered(tag)
    return settlement


@given(data=st.data(), size=st.integers(1, 60))
def test_no_unsettled_tag_is_acked_and_every_settled_one_exactly_once(data: st.DataObject, size: int) -> None:
    settlement, channel = delivered(size), Channel(size)
    order = data.draw(st.permutations(range(1, size + 1)))
    settled: set[int] = set()
    rejected: set[int] = set()
    while order:
        cut = data.draw(st.integers(1, len(order)))
        group, order = order[:cut], order[cut:]
        if data.draw(st.booleans()):
            again = data.draw(st.lists(st.sampled_from(sorted(settled | rejected)))) if settled | rejected else []
            settled |= set(group)
            channel.take(settlement.settle([*group, *again]))
        else:
            for tag in group:
                assert settlement.rejected(tag)
                channel.unacked.discard(tag)
                rejected.add(tag)
        assert sorted(channel.acked) == sorted(settled)
        assert settlement.outstanding == size - len(settled) - len(rejected)
    assert channel.unacked == set()


def test_a_contiguous_batch_is_one_multiple_ack() -> None:
    assert delivered(3).settle([1, 2, 3]) == [Ack(3, multiple=True)]


def test_a_tag_beyond_an_unsettled_one_is_acked_singly() -> None:
    settlement = delivered(4)
    assert settlement.settle([2, 3]) == [Ack(2, multiple=False), Ack(3, multiple=False)]
    assert settlement.settle([1]) == [Ack(1, multiple=False)]
    assert settlement.settle([4]) == [Ack(4, multiple=False)]


def test_the_multiple_ack_names_a_tag_that_is_still_unacked() -> None:
    settlement = delivered(4)
    settlement.settle([4])
    assert settlement.settle([1, 2, 3]) == [Ack(3, multiple=True)]


@pytest.mark.parametrize("tag", [0, -1, 4, 99])
def test_a_tag_that_was_never_delivered_is_never_acked(tag: int) -> None:
    settlement = delivered(3)
    assert settlement.settle([tag]) == []
    assert not settlement.rejected(tag)
    assert settlement.outstanding == 3


def test_a_tag_is_not_settled_twice() -> None:
    settlement = delivered(2)
    assert settlement.settle([2])
    assert settlement.settle([2]) == []
    assert not settlement.rejected(2)


def test_a_tag_that_was_left_out_is_taken_along_by_no_multiple_ack() -> None:
    settlement = Settlement()
    settlement.delivered(1)
    settlement.delivered(4)
    assert settlement.settle([1, 4]) == [Ack(1, multiple=False), Ack(4, multiple=False)]
    assert settlement.outstanding == 2

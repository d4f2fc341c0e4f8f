from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from outhaul.tools.audit import Audit, Sent, merge

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def sent(number: int) -> Sent:
    return Sent(UUID(int=number), MOMENT, "shop.events", "order.created")


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_every_id_comes_out_once_and_paired_where_both_have_it(left: set[int], right: set[int]) -> None:
    pairs = list(merge(map(sent, sorted(left)), (UUID(int=n) for n in sorted(right))))
    both = {row.message_id.int for row, message_id in pairs if row is not None and message_id is not None}
    only_sent = {row.message_id.int for row, message_id in pairs if row is not None and message_id is None}
    only_consumed = {message_id.int for row, message_id in pairs if row is None and message_id is not None}
    assert both == left & right
    assert only_sent == left - right
    assert only_consumed == right - left
    assert len(pairs) == len(left | right)
    assert all(row is None or message_id is None or row.message_id == message_id for row, message_id in pairs)


def result(*, unaccounted: int, waiting: int | None) -> Audit:
    return Audit(
        consumer="waybill",
        since=MOMENT,
        until=MOMENT,
        grace_seconds=60,
        unaccounted=unaccounted,
        waiting=waiting,
    )


def test_what_exceeds_the_queues_depth_is_lost_for_certain() -> None:
    assert result(unaccounted=5, waiting=3).lost == 2
    assert not result(unaccounted=5, waiting=3).is_clean


def test_what_may_still_wait_in_a_queue_is_not_called_lost() -> None:
    assert result(unaccounted=3, waiting=3).lost == 0
    assert result(unaccounted=3, waiting=3).is_clean


def test_without_a_depth_nobody_can_tell_lost_from_waiting() -> None:
    assert result(unaccounted=1, waiting=None).lost is None
    assert not result(unaccounted=1, waiting=None).is_clean


def test_nothing_unaccounted_for_is_clean_even_without_a_broker() -> None:
    assert result(unaccounted=0, waiting=None).lost == 0
    assert result(unaccounted=0, waiting=None).is_clean

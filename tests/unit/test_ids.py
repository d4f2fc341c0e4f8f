"""Ids carry the database's time; a range of ids is a range of time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outhaul.ids import EPOCH, first_at, is_uuid7, time_of

# RFC 9562, appendix A.6: made on Tuesday, February 22, 2022 2:22:22.00 PM GMT-05:00.
EXAMPLE = UUID("017F22E2-79B0-7CC3-98C4-DC0C0C07398F")
EXAMPLE_TIME = datetime(2022, 2, 22, 14, 22, 22, tzinfo=timezone(timedelta(hours=-5)))

moments = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis wants its bounds without a zone


def made_at(moment: datetime, tail: int = 0) -> UUID:
    return UUID(int=first_at(moment).int | 7 << 76 | 2 << 62 | tail)


def test_the_standards_own_example_tells_its_time() -> None:
    assert is_uuid7(EXAMPLE)
    assert time_of(EXAMPLE) == EXAMPLE_TIME
    assert first_at(EXAMPLE_TIME) == UUID("017F22E2-79B0-0000-0000-000000000000")


@pytest.mark.parametrize(
    "other",
    [uuid4(), UUID("c232ab00-9414-11ec-b3c8-9f6bdeced846"), UUID(int=0), UUID(int=2**128 - 1), UUID(int=7 << 76)],
)
def test_another_uuid_carries_no_time(other: UUID) -> None:
    assert not is_uuid7(other)


@given(moments)
def test_an_ids_time_is_the_instant_to_the_millisecond(moment: datetime) -> None:
    assert timedelta() <= moment - time_of(made_at(moment)) < timedelta(milliseconds=1)


@given(moments, moments, st.integers(0, 2**62 - 1))
def test_ids_sort_as_their_times_do(one: datetime, other: datetime, tail: int) -> None:
    early, late = sorted((one, other))
    assert first_at(early) <= made_at(early, tail)
    if late - early >= timedelta(milliseconds=1):
        assert made_at(early, tail) < first_at(late)


def test_an_id_beyond_the_calendar_has_the_last_instant_there_is() -> None:
    """Anybody can send one: it must not end a consumer or a command."""
    assert time_of(UUID("ffffffff-ffff-7fff-bfff-ffffffffffff")) == datetime.max.replace(tzinfo=UTC)


def test_before_the_epoch_there_is_no_smaller_id() -> None:
    assert first_at(EPOCH - timedelta(days=1)) == UUID(int=0)
    assert first_at(datetime.min.replace(tzinfo=UTC)) == UUID(int=0)

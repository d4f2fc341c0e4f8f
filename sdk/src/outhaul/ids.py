"""Message ids: UUIDv7 (RFC 9562 section 5.7), made by the database, ordered by its clock.

The first 48 bits are milliseconds since the Unix epoch, so a range of ids is a range of time. That is what
lets `outbox_sent` and `inbox` be partitioned by day on their primary key, and what lets a consumer tell from
the id alone that a message is older than its inbox remembers.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)
_LAST_MILLISECOND = (LAST - EPOCH) // timedelta(milliseconds=1)


def is_uuid7(value: UUID) -> bool:
    """Whether the id is a UUIDv7, the only version that carries its time."""
    return value.version == 7


def time_of(message_id: UUID) -> datetime:
    """The instant (UTC, millisecond precision) at which the database made this UUIDv7.

    Never raises: 48 bits reach to the year 10889, and an id from beyond the calendar has its last instant.
    """
    milliseconds = message_id.int >> 80
    return LAST if milliseconds > _LAST_MILLISECOND else EPOCH + timedelta(milliseconds=milliseconds)


def first_at(moment: datetime) -> UUID:
    """The smallest id of that instant: a range bound, not a valid UUIDv7 itself. None is smaller than the epoch's."""
    milliseconds = (moment - EPOCH) // timedelta(milliseconds=1)
    return UUID(int=max(0, milliseconds) << 80)

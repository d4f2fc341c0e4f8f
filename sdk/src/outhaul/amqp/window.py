"""Which published messages are still unknown: the accounting of delivery tags, pure and without I/O.

**Acked and returned is unroutable, and that is not sent. No answer is unknown, and unknown is not sent.**

Where the rules come from (https://www.rabbitmq.com/docs/confirms, AMQP 0-9-1): a channel in confirm mode
counts its publishes from 1; the broker answers with a tag, and with ``multiple`` for every tag up to it, in
acks and in nacks alike; answers come out of order; an unroutable mandatory message comes back as
``basic.return`` *before* its ack and carries no tag, only its properties. A window belongs to one channel: a
new channel counts from 1 in a new window.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from outhaul.errors import OuthaulError

T = TypeVar("T")


class TagOutOfRangeError(OuthaulError):
    """The broker settled a tag that was never published: the count is off, nothing in it can be trusted."""


class Acked(NamedTuple, Generic[T]):
    """What one ack settled: items the broker holds now, and items it had returned (with its reason)."""

    confirmed: list[T]
    unroutable: list[tuple[T, str]]


class _Pending(NamedTuple, Generic[T]):
    item: T
    message_id: str
    size_bytes: int
    published_at: float


@dataclass(slots=True)
class _Return:
    reason: str
    last_tag: int


class Window(Generic[T]):
    """The unconfirmed messages of one channel, bounded in messages and in bytes.

    ``now`` is always monotonic time in seconds, given by the caller. A message bigger than ``max_bytes`` is
    let in when it is alone, else it could never be sent. Every operation is O(1) amortised over the messages.
    """

    __slots__ = (
        "_bytes",
        "_last",
        "_lowest",
        "_max_bytes",
        "_max_messages",
        "_pending",
        "_purge",
        "_returned",
    )

    def __init__(self, *, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._pending: dict[int, _Pending[T]] = {}
        self._bytes = 0
        self._last = 0  # the tag given last
        self._lowest = 1  # no pending tag is below it; it only grows, which is what makes `multiple` cheap
        self._returned: dict[str, _Return] = {}
        self._purge: deque[tuple[int, str]] = deque()

    def __len__(self) -> int:
        """How many messages are unconfirmed."""
        return len(self._pending)

    @property
    def pending_bytes(self) -> int:
        """How many bytes are unconfirmed."""
        return self._bytes

    @property
    def last_tag(self) -> int:
        """The tag of the message published last; 0 before the first."""
        return self._last

    def has_room(self, size_bytes: int = 0) -> bool:
        """Whether one more message of this size may be published now."""
        return len(self._pending) < self._max_messages and (
            self._bytes + size_bytes <= self._max_bytes or not self._pending
        )

    def add(self, item: T, message_id: str, size_bytes: int, now: float) -> int:
        """Count one message that has just been handed to the channel; gives its tag."""
        self._last = tag = self._last + 1
        self._pending[tag] = _Pending(item, message_id, size_bytes, now)
        self._bytes += size_bytes
        return tag

    def returned(self, message_id: str, reason: str) -> None:
        """The broker sent a message back. Every unconfirmed one of that id is unroutable.

        Two of one id in one window cannot be told apart by a return, so neither counts as sent.
        """
        known = self._returned.get(message_id)
        if known is None:
            self._returned[message_id] = _Return(reason, self._last)
        else:
            known.reason = reason
            known.last_tag = self._last
        self._purge.append((self._last, message_id))

    def ack(self, tag: int, *, multiple: bool) -> Acked[T]:
        """Settle what the broker acked. Raises TagOutOfRangeError for a tag that was never given."""
        settled = self._take(tag, multiple=multiple)
        if not self._returned:
            return Acked([pending.item for _, pending in settled], [])
        confirmed: list[T] = []
        unroutable: list[tuple[T, str]] = []
        for its_tag, pending in settled:
            mark = self._returned.get(pending.message_id)
            if mark is not None and its_tag <= mark.last_tag:
                unroutable.append((pending.item, mark.reason))
            else:
                confirmed.append(pending.item)
        self._forget_returns()
        return Acked(confirmed, unroutable)

    def nack(self, tag: int, *, multiple: bool) -> list[T]:
        """Settle what the broker refused to take. Raises TagOutOfRangeError for a tag that was never given."""
        settled = self._take(tag, multiple=multiple)
        if self._returned:
            self._forget_returns()
        return [pending.item for _, pending in settled]

    def close(self) -> list[T]:
        """The channel is gone: every unconfirmed message, oldest first, is unknown. Empties the window."""
        unknown = [pending.item for pending in self._pending.values()]
        self._pending.clear()
        self._returned.clear()
        self._purge.clear()
        self._bytes = 0
        self._lowest = self._last + 1
        return unknown

    def oldest_age(self, now: float) -> float:
        """Seconds for which the oldest unconfirmed message has waited; 0 when there is none."""
        self._advance()
        oldest = self._pending.get(self._lowest)
        return 0.0 if oldest is None else now - oldest.published_at

    def age_of(self, tag: int, now: float) -> float:
        """Seconds since that tag was published; 0 when it is settled or unknown."""
        pending = self._pending.get(tag)
        return 0.0 if pending is None else now - pending.published_at

    def published_before(self, moment: float) -> list[T]:
        """The unconfirmed messages that were published before that moment, oldest first."""
        return [each.item for each in self._pending.values() if each.published_at < moment]

    def overdue(self, now: float, confirm_timeout_seconds: float) -> bool:
        """Whether a message has waited longer for its confirm than the deadline allows."""
        return self.oldest_age(now) > confirm_timeout_seconds

    def _take(self, tag: int, *, multiple: bool) -> list[tuple[int, _Pending[T]]]:
        if not 0 < tag <= self._last:
            raise TagOutOfRangeError(f"tag {tag} was settled, but only 1 to {self._last} were published")
        if not multiple:
            one = self._pending.pop(tag, None)
            if one is None:
                return []
            self._bytes -= one.size_bytes
            return [(tag, one)]
        settled = []
        pop = self._pending.pop
        for each in range(self._lowest, tag + 1):
            pending = pop(each, None)
            if pending is not None:
                settled.append((each, pending))
                self._bytes -= pending.size_bytes
        self._lowest = max(self._lowest, tag + 1)
        return settled

    def _advance(self) -> None:
        while self._lowest <= self._last and self._lowest not in self._pending:
            self._lowest += 1

    def _forget_returns(self) -> None:
        """Drop the marks of returned ids once every message published before the return is settled."""
        self._advance()
        while self._purge and self._purge[0][0] < self._lowest:
            last_tag, message_id = self._purge.popleft()
            mark = self._returned.get(message_id)
            if mark is not None and mark.last_tag <= last_tag:
                del self._returned[message_id]

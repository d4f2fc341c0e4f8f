"""Which acks to send: `multiple` only up to the contiguous settled watermark, singly beyond it.

A multiple ack takes every smaller tag of the channel with it, settled or not: sent for tag 3 while 1 and 2 are still
being worked on, it loses 1 and 2. So it is sent only for a tag below which everything is settled.

Pure: one object for one channel; a new channel is a new object, for its tags begin at 1 again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Ack(NamedTuple):
    """One `basic.ack` to send."""

    tag: int
    multiple: bool


class Settlement:
    """The delivery tags of one channel: 1, 2, 3, ... as the broker counts them."""

    __slots__ = ("_beyond", "_delivered", "_watermark")

    def __init__(self) -> None:
        self._delivered = 0
        self._watermark = 0
        self._beyond: set[int] = set()

    @property
    def outstanding(self) -> int:
        """Deliveries that are not settled yet."""
        return self._delivered - self._watermark - len(self._beyond)

    def delivered(self, tag: int) -> None:
        """The broker handed out this tag. Tags come in order.

        One that is left out stays outstanding: nobody knows what became of it, so no multiple ack may take it along.
        """
        self._delivered = tag

    def settle(self, tags: Iterable[int]) -> list[Ack]:
        """These deliveries are done with: the acks that say so, each tag exactly once.

        A tag that was never delivered, or is settled already, is left out: acking it would close the channel.
        """
        fresh = self._take(tags)
        acks = []
        reached = self._watermark
        below = [tag for tag in fresh if tag <= reached]
        if below:
            # The tag named must itself be unacked, so the last of these, not the watermark: a tag between the two
            # may have been acked singly before, and the broker closes the channel over a tag it does not hold.
            acks.append(Ack(max(below), multiple=len(below) > 1))
        acks += [Ack(tag, multiple=False) for tag in sorted(fresh) if tag > reached]
        return acks

    def rejected(self, tag: int) -> bool:
        """Settle a tag by `basic.reject` instead; False when there is nothing left to reject."""
        return bool(self._take([tag]))

    def _take(self, tags: Iterable[int]) -> set[int]:
        beyond, watermark = self._beyond, self._watermark
        fresh = {tag for tag in tags if watermark < tag <= self._delivered and tag not in beyond}
        beyond |= fresh
        while watermark + 1 in beyond:
            watermark += 1
            beyond.discard(watermark)
        self._watermark = watermark
        return fresh

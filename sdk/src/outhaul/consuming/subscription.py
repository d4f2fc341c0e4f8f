"""One channel of a consumer: what came over it and is not settled yet. A tag means nothing on another channel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from outhaul.consuming.settlement import Settlement


class Subscription:
    """One channel: what came over it and is not settled yet."""

    def __init__(self, channel: Any, number: int) -> None:
        self.channel = channel
        self.number = number
        self.settlement = Settlement()
        self.consumer_tag: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether anything can still be settled on it."""
        return bool(self.channel.is_open)

    def ack(self, tags: Iterable[int]) -> None:
        """These are done with."""
        acks = self.settlement.settle(tags)
        if self.is_open:
            for ack in acks:
                self.channel.basic_ack(ack.tag, ack.multiple)

    def reject(self, tag: int) -> None:
        """Leave the message to the broker's own dead-lettering."""
        if self.settlement.rejected(tag) and self.is_open:
            self.channel.basic_reject(tag, requeue=False)

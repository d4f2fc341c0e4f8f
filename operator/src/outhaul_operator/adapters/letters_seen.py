"""Why letters died: the first of a dead-letter queue, looked at rarely and only while nobody moves them.

A letter that is looked at is hidden from others for that moment, so a queue whose depth is changing (a redrive is at
work) is left alone.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final

from outhaul.errors import OuthaulError
from outhaul.settings import BrokerSettings
from outhaul.tools.dlq import DeadLetterQueue
from outhaul_operator.snapshot import DeadLetters

MOST_LETTERS: Final = 100
AGAIN_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Letters:
    """What the letters that were looked at tell."""

    reasons: tuple[DeadLetters, ...] = ()
    oldest_at: datetime | None = None


class LettersSeen:
    """One dead-letter queue. ``look`` blocks for a few milliseconds when it looks at all."""

    def __init__(self, broker: BrokerSettings, name: str, *, answer_seconds: float) -> None:
        self._broker = broker
        self._name = name
        self._answer_seconds = answer_seconds
        self._depth: int | None = None
        self._looked_at_depth: int | None = None
        self._looked_at: float = 0.0
        self._letters = Letters()

    def look(self, depth: int) -> Letters:
        """What is known at that depth; the letters are read where it stands still and has changed since last read."""
        before, self._depth = self._depth, depth
        if depth == 0:
            self._looked_at_depth, self._letters = 0, Letters()
            return self._letters
        stands_still = depth == before
        is_stale = time.monotonic() - self._looked_at > AGAIN_SECONDS
        if stands_still and (depth != self._looked_at_depth or is_stale):
            self._looked_at_depth, self._looked_at = depth, time.monotonic()
            self._letters = self._read()
        return self._letters

    def _read(self) -> Letters:
        try:
            with DeadLetterQueue(self._broker, self._name, answer_seconds=self._answer_seconds) as queue:
                letters = [letter.letter for letter in islice(queue.letters(), MOST_LETTERS)]
        except OuthaulError:
            # Without the permission to read it, or gone meanwhile: its depth is told all the same.
            return Letters()
        counted = Counter(letter.reason or "unknown" for letter in letters)
        died = [letter.last_failed_at for letter in letters if letter.last_failed_at is not None]
        return Letters(tuple(DeadLetters(*each) for each in counted.most_common()), min(died, default=None))

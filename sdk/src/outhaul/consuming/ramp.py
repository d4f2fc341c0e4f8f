"""How many messages to hold at once: 1 at first, more once messages are seen to go well.

A message that kills the process takes everything prefetched with it: all of it comes back as redelivered, and counts
toward the broker's delivery limit. So each (re)connected consumer starts with one message in its hands and takes more
after a run of messages that were not redelivered. Pure: it says what the prefetch should be, the link sets it.

`basic.qos` (per consumer) binds only consumers made after it, so a rise is cancel, qos, consume on the same channel.
Cancel keeps unacked messages, but pika hands back, as redelivered, what arrives between cancel and cancel-ok. Nothing
can arrive while every slot is taken: a rise is due only then.
"""

from __future__ import annotations

from outhaul.errors import ConfigurationError

FIRST_RUN = 10
MIDDLE = 16


class Ramp:
    """The prefetch of one subscription. ``hold_seconds`` bounds how long a message may wait behind the others.

    A slow handler never gets a full window: what waits here for longer than the broker's consumer timeout would be
    taken back, and could have been worked on by another consumer.
    """

    __slots__ = ("_clean", "_hold_seconds", "_index", "_levels", "_seconds")

    def __init__(self, full: int, *, hold_seconds: float = 60.0) -> None:
        if not 1 <= full <= 65_535:
            raise ConfigurationError("prefetch", full, "must lie between 1 and 65535")
        self._levels = sorted({1, min(MIDDLE, full), full})
        self._hold_seconds = hold_seconds
        self.restart()

    def restart(self) -> None:
        """Connected anew: one message at a time."""
        self._index = 0
        self._clean = 0
        self._seconds = 0.0

    @property
    def prefetch(self) -> int:
        """How many unacked messages to hold now."""
        return self._levels[self._index]

    def settled(self, count: int, *, redelivered: int, seconds: float) -> None:
        """``count`` messages took ``seconds`` of work; ``redelivered`` of them came from somebody who lost them."""
        if redelivered:
            self._clean = 0
            self._seconds = 0.0
        else:
            self._clean += count
            self._seconds += seconds

    def should_rise(self, outstanding: int) -> bool:
        """Whether to take the next level now: a long enough clean run, quick enough, and every slot taken."""
        if self._index + 1 >= len(self._levels) or outstanding < self.prefetch:
            return False
        if self._clean < max(FIRST_RUN, self.prefetch):
            return False
        return self._levels[self._index + 1] * self._seconds / self._clean <= self._hold_seconds

    def rise(self) -> int:
        """Take the next level; returns the new prefetch."""
        self._index = min(self._index + 1, len(self._levels) - 1)
        self._clean = 0
        self._seconds = 0.0
        return self.prefetch

"""When a service that died is started again: at once the first time, then later and later while it keeps dying."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_DELAY_SECONDS = 0.25
LONGEST_DELAY_SECONDS = 15.0
HEALTHY_SECONDS = 3.0


@dataclass(slots=True)
class Restarts:
    """One service's deaths and starts. Times are a monotonic clock's seconds, given by the caller."""

    dead: bool = False
    short_lives: int = 0
    not_before: float = 0.0
    started_at: float | None = None

    def found_dead(self, now: float) -> None:
        """It does not run. Said again and again of the same death, only the first time counts."""
        if self.dead:
            return
        self.dead = True
        if self.started_at is None or now - self.started_at >= HEALTHY_SECONDS:
            self.short_lives = 0
        delay = 0.0
        if self.short_lives:
            delay = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** min(self.short_lives - 1, 16))
        self.short_lives += 1
        self.not_before = now + delay

    def is_due(self, now: float) -> bool:
        """Whether it is dead and may be started now."""
        return self.dead and now >= self.not_before

    def started(self, now: float) -> None:
        """It was started; should it die at once, that counts as a short life."""
        self.dead = False
        self.started_at = now

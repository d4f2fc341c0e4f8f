"""A message that failed by itself waits in a delay queue of the broker, and is tried a bounded number of times.

One queue per delay ("tier"): a per-message expiration would block behind a longer one at the head of its queue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from outhaul.errors import ConfigurationError
from outhaul.topology import tier_name

_LONGEST_DELAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Retry:
    """When a failed message is tried again, and when to give up.

    ``delays`` are seconds: the first failure waits the first of them, and so on; the last one repeats.
    ``max_attempts`` counts runs that failed; at that many the message is dead-lettered. The delays must be the ones the
    queue's topology was declared with. Raises ConfigurationError.
    """

    delays: tuple[float, ...] = (5, 30, 300)
    max_attempts: int = 8

    def __post_init__(self) -> None:
        """Refuse delays no queue can have."""
        object.__setattr__(self, "delays", tuple(self.delays))
        if not self.delays and self.max_attempts != 1:
            raise ConfigurationError(
                "Retry.delays", self.delays, "needs a delay, or max_attempts=1 for no retry at all"
            )
        for delay in self.delays:
            if not math.isfinite(delay) or not 0.001 <= delay <= _LONGEST_DELAY_SECONDS:
                raise ConfigurationError("Retry.delays", delay, "must be seconds, from 0.001 up to a day")
        if not 1 <= self.max_attempts <= 1000:
            raise ConfigurationError("Retry.max_attempts", self.max_attempts, "must lie between 1 and 1000")

    def delay_seconds(self, failed: int) -> float | None:
        """How long to wait after the ``failed``-th failure (from 1 on); None when that was the last attempt."""
        if failed >= self.max_attempts:
            return None
        return self.delays[min(failed, len(self.delays)) - 1]

    def tier(self, queue: str, failed: int) -> str | None:
        """The delay queue after the ``failed``-th failure, which is also its routing key; None for no more attempts."""
        delay = self.delay_seconds(failed)
        return None if delay is None else tier_name(queue, delay)

"""How long to wait before trying again: exponential with full jitter.

Full jitter (a uniform draw from zero to the bound) spreads a crowd of clients that lost the same broker at the
same instant: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """The waits of one thing that fails again and again. Seconds throughout; ``rng`` is for tests."""

    base_seconds: float = 0.2
    cap_seconds: float = 10.0
    rng: random.Random = field(default_factory=random.Random)
    failures: int = 0

    def next_seconds(self) -> float:
        """Count one more failure and draw the wait after it, never below a twentieth of its bound."""
        bound = min(self.cap_seconds, self.base_seconds * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return max(bound / 20, self.rng.random() * bound)

    def reset(self) -> None:
        """Forget the failures: it worked."""
        self.failures = 0

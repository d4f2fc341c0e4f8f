"""Rows a producer in this process records leased and hands over at commit, so that nothing need be claimed for them.

A lease is promised before the row is inserted and kept whatever happens: a row never handed over (the commit's outcome
was unknown, the process died) is free again when its lease ends, and any sender takes it.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from uuid import UUID, uuid4


@dataclass(frozen=True, slots=True)
class HandOverLease:
    """What to record a row with (``Outbox.add(..., lease=lease)``). ``expires_at`` is monotonic seconds."""

    token: UUID
    lease_seconds: float
    expires_at: float


class Reservations:
    """Bounds how many rows are promised or waiting: a queue without a bound would hide a backlog in memory.

    Safe to use from any thread.
    """

    def __init__(self, most: int, lease_seconds: float) -> None:
        self._most = most
        self._lease_seconds = lease_seconds
        self._promised: dict[UUID, float] = {}
        self._lock = threading.Lock()

    def reserve(self, waiting: int) -> HandOverLease | None:
        """A lease, or None when that many promises and ``waiting`` rows are as many as may be."""
        now = time.monotonic()
        with self._lock:
            if len(self._promised) + waiting >= self._most and not self._forget_expired(now, waiting):
                return None
            lease = HandOverLease(uuid4(), self._lease_seconds, now + self._lease_seconds)
            self._promised[lease.token] = lease.expires_at
            return lease

    def redeem(self, token: UUID) -> float | None:
        """The lease's end, if it was promised; the promise is over."""
        with self._lock:
            return self._promised.pop(token, None)

    def _forget_expired(self, now: float, waiting: int) -> bool:
        """Promises that were neither kept nor given back end with their lease."""
        for token, expires_at in list(self._promised.items()):
            if expires_at > now:
                break  # in order of their making, and all leases are of one length
            del self._promised[token]
        return len(self._promised) + waiting < self._most

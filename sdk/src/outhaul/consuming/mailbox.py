"""Deliveries on their way from the link's thread to the worker, wherever that one lives.

Filled once per turn of the link's loop, not once per message. The worker takes what is there as soon as it is idle:
while it works, the next batch gathers by itself.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from outhaul.consuming.delivery import Delivery
from outhaul.consuming.steps import Step


@dataclass(frozen=True, slots=True)
class Take(Step):
    """Wait for deliveries: answers up to ``most``, none at the timeout, or None when it is time to end.

    With ``linger_seconds`` it waits that much longer for a batch that is not full.
    """

    most: int
    timeout_seconds: float
    linger_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Pause(Step):
    """Wait: answers whether it is time to end."""

    seconds: float


class IsLate(Step):
    """Whether the time to finish is over: answers bool."""


IS_LATE = IsLate()


class Bell(Protocol):
    """What wakes the worker."""

    def ring(self) -> None:
        """Wake it; from any thread."""


class Mailbox:
    """Filled by one thread, emptied by another."""

    def __init__(self) -> None:
        self._waiting: deque[Delivery] = deque()
        self._lock = threading.Lock()
        self._bell: Bell | None = None
        self._end_at: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def attach(self, bell: Bell) -> None:
        """Whom to wake."""
        self._bell = bell

    def put(self, deliveries: Sequence[Delivery]) -> None:
        """Hand over, in order."""
        with self._lock:
            self._waiting.extend(deliveries)
        self._ring()

    def drop(self) -> None:
        """Forget what waits: its channel is gone, and the broker will deliver it again."""
        with self._lock:
            self._waiting.clear()

    def end(self, *, drain_seconds: float) -> None:
        """Let the worker finish what waits here, up to the deadline, and then end."""
        self._end_at = time.monotonic() + drain_seconds
        self._ring()

    @property
    def is_ending(self) -> bool:
        """Whether the worker was told to end."""
        return self._end_at is not None

    @property
    def is_late(self) -> bool:
        """Whether the time to finish is over."""
        return self._end_at is not None and time.monotonic() >= self._end_at

    @property
    def is_over(self) -> bool:
        """Whether the worker should take nothing more."""
        return self.is_late or (self._end_at is not None and not self._waiting)

    def take_now(self, most: int) -> list[Delivery]:
        """What is there, without waiting."""
        with self._lock:
            if len(self._waiting) <= most:
                taken = list(self._waiting)
                self._waiting.clear()
                return taken
            return [self._waiting.popleft() for _ in range(most)]

    def _ring(self) -> None:
        if self._bell is not None:
            self._bell.ring()


class ThreadMailbox:
    """A worker thread's end of the mailbox."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._bell = threading.Event()
        self.beat = time.monotonic()
        mailbox.attach(self)

    def ring(self) -> None:
        """As Bell."""
        self._bell.set()

    def take(self, step: Take) -> list[Delivery] | None:
        """Carry out a Take."""
        self.beat = time.monotonic()
        deadline = self.beat + step.timeout_seconds
        while True:
            self._bell.clear()
            if self._mailbox.is_over:
                return None
            taken = self._mailbox.take_now(step.most)
            if taken:
                return self._linger(taken, step)
            if not self._bell.wait(max(0.0, deadline - time.monotonic())):
                return []

    def pause(self, step: Pause) -> bool:
        """Carry out a Pause."""
        self.beat = time.monotonic()
        deadline = self.beat + step.seconds
        while True:
            self._bell.clear()
            left = deadline - time.monotonic()
            if self._mailbox.is_ending or left <= 0 or not self._bell.wait(left):
                return self._mailbox.is_ending

    def _linger(self, taken: list[Delivery], step: Take) -> list[Delivery]:
        deadline = time.monotonic() + step.linger_seconds
        while len(taken) < step.most and not self._mailbox.is_ending:
            left = deadline - time.monotonic()
            if left <= 0 or not self._bell.wait(left):
                break
            self._bell.clear()
            taken += self._mailbox.take_now(step.most - len(taken))
        return taken


class LoopMailbox:
    """A worker coroutine's end of the mailbox, on the running loop."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._bell = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.beat = time.monotonic()
        mailbox.attach(self)

    def ring(self) -> None:
        """As Bell."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._bell.set)

    async def take(self, step: Take) -> list[Delivery] | None:
        """Carry out a Take."""
        self.beat = time.monotonic()
        deadline = self.beat + step.timeout_seconds
        while True:
            self._bell.clear()
            if self._mailbox.is_over:
                return None
            taken = self._mailbox.take_now(step.most)
            if taken:
                return await self._linger(taken, step)
            if not await self._wait(deadline - time.monotonic()):
                return []

    async def pause(self, step: Pause) -> bool:
        """Carry out a Pause."""
        self.beat = time.monotonic()
        deadline = self.beat + step.seconds
        while True:
            self._bell.clear()
            left = deadline - time.monotonic()
            if self._mailbox.is_ending or left <= 0 or not await self._wait(left):
                return self._mailbox.is_ending

    async def _linger(self, taken: list[Delivery], step: Take) -> list[Delivery]:
        deadline = time.monotonic() + step.linger_seconds
        while len(taken) < step.most and not self._mailbox.is_ending:
            left = deadline - time.monotonic()
            if left <= 0 or not await self._wait(left):
                break
            self._bell.clear()
            taken += self._mailbox.take_now(step.most - len(taken))
        return taken

    async def _wait(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._bell.wait()
        except TimeoutError:
            return False
        return True

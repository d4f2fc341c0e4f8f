"""One look for all who ask for the same within a few seconds: many Outboxes share one broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar, cast

T = TypeVar("T")

_SWEEP_ABOVE = 256


class SharedLooks:
    """Answers by key, kept for as long as their maker says; at most one maker of a key at a time.

    A maker ends by itself: whoever waits may give up, and the others still get its answer.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, asyncio.Task[Any]] = {}
        self._until: dict[Hashable, float] = {}

    async def get(self, key: Hashable, make: Callable[[], Awaitable[T]], *, keep_seconds: Callable[[T], float]) -> T:
        """The answer, made now or a moment ago. Raises what the maker raised."""
        task = self._made.get(key)
        if task is None or (task.done() and time.monotonic() >= self._until.get(key, 0.0)):
            self._sweep()
            task = asyncio.get_running_loop().create_task(self._make(key, make, keep_seconds))
            self._made[key] = task
        return cast("T", await asyncio.shield(task))

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._made.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make(self, key: Hashable, make: Callable[[], Awaitable[T]], keep_seconds: Callable[[T], float]) -> T:
        self._until.pop(key, None)
        answer = await make()
        self._until[key] = time.monotonic() + keep_seconds(answer)
        return answer

    def _sweep(self) -> None:
        if len(self._made) < _SWEEP_ABOVE:
            return
        now = time.monotonic()
        for key in [key for key, task in self._made.items() if task.done() and now >= self._until.get(key, 0.0)]:
            del self._made[key]
            self._until.pop(key, None)

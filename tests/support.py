"""What the suites share: bounded polling, and what a test holds of a broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar, overload

T = TypeVar("T")
INTERVAL_SECONDS = 0.02


def poll(predicate: Callable[[], T], *, seconds: float = 10, what: str = "the condition") -> T:
    """Ask until the answer is truthy and return it; AssertionError at the deadline, with the last answer."""
    deadline = time.monotonic() + seconds
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what} did not come about within {seconds:g} s; last seen: {value!r}")
        time.sleep(INTERVAL_SECONDS)


@overload
async def apoll(predicate: Callable[[], Coroutine[Any, Any, T]], *, seconds: float = 10, what: str = "") -> T: ...


@overload
async def apoll(predicate: Callable[[], T], *, seconds: float = 10, what: str = "") -> T: ...


async def apoll(predicate: Callable[[], Any], *, seconds: float = 10, what: str = "the condition") -> Any:
    """The asynchronous twin of :func:`poll`; the predicate may be plain or a coroutine function."""
    deadline = time.monotonic() + seconds
    while True:
        answer = predicate()
        value = await answer if isinstance(answer, Awaitable) else answer
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what} did not come about within {seconds:g} s; last seen: {value!r}")
        await asyncio.sleep(INTERVAL_SECONDS)


@dataclass(frozen=True, slots=True)
class BrokerUnderTest:
    """A real RabbitMQ, seen through a virtual host made for one test.

    ``amqp_url`` ends in that virtual host; ``management_url`` is the API's base (no ``/api``), with credentials.
    """

    amqp_url: str
    management_url: str
    vhost: str
    version: tuple[int, ...]

"""Bounded waiting: every wait has a deadline, an interval and a name for what it waits for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TimedOut(Exception):
    """Something did not happen in time. ``what`` names it, ``seconds`` says how long it was given."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"{what} did not happen within {seconds:g} s")
        self.what = what
        self.seconds = seconds


def wait_for(probe: Callable[[], T | None], *, seconds: float, what: str, interval_seconds: float = 0.05) -> T:
    """Return the first truthy value of ``probe``, asked every ``interval_seconds``.

    Raises :class:`TimedOut` after ``seconds``; whatever ``probe`` raises passes through.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise TimedOut(what, seconds)
        time.sleep(interval_seconds)

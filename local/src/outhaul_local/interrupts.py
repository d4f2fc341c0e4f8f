"""Ctrl-C, SIGTERM and a closed terminal, all as one exception, and never between a start and its record."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """Somebody wants us to end. Like KeyboardInterrupt it is no ``Exception``: nothing catches it by accident."""


class Interrupts:
    """Turns the three signals into :class:`Interrupted` while entered. For the main thread."""

    def __init__(self) -> None:
        self._held = False
        self._pending = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        if self._held:
            # Masking the signal instead would be inherited by the child that is being started.
            self._pending = True
            return
        raise Interrupted(number)

    @contextmanager
    def held_back(self, *, for_good: bool = False) -> Iterator[None]:
        """Signals wait until the block ends: a process is started and remembered, or neither.

        ``for_good`` forgets them: used while cleaning up after one.
        """
        self._held = True
        try:
            yield
        finally:
            self._held = False
            pending, self._pending = self._pending, False
        if pending and not for_good:
            raise Interrupted

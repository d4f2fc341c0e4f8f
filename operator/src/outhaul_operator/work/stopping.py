"""Whether this process was told to stop. Set by a signal handler; looked at where the work may be left."""

from __future__ import annotations

from collections.abc import Callable


class Stopped(Exception):
    """The work was left in order because this process was told to stop."""


class Stopping:
    """A flag that a signal handler sets, in the main thread, between two instructions."""

    def __init__(self) -> None:
        self._is_set = False
        self._on_set: Callable[[], object] = lambda: None

    def set(self) -> None:
        """Stop, at the next good moment."""
        self._is_set = True
        self._on_set()

    def on_set(self, call: Callable[[], object]) -> None:
        """Call this too when it is set; at once when it is already."""
        self._on_set = call
        if self._is_set:
            call()

    def check(self) -> None:
        """Raise Stopped if set."""
        if self._is_set:
            raise Stopped("it was stopped")

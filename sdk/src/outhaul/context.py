"""The message being handled, so that what a handler records names its cause without being told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """The id of the message that is being handled, and the trace it belongs to."""

    causation_id: str
    traceparent: str | None


_cause: ContextVar[Cause | None] = ContextVar("outhaul_cause", default=None)


def current_cause() -> Cause | None:
    """The cause of what is recorded now, inside a handler; None outside."""
    return _cause.get()


@contextmanager
def caused_by(causation_id: str, traceparent: str | None) -> Iterator[None]:
    """Everything recorded inside the block was caused by that message."""
    token = _cause.set(Cause(causation_id, traceparent))
    try:
        yield
    finally:
        _cause.reset(token)

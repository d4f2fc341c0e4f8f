"""The steps of consuming, apart from how they are carried out: written once, run by a thread or by an event loop.

A generator yields steps and is sent their results; what fails is thrown into it.
`outhaul.consuming.sessions` carries them out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString, Protocol, TypeVar

from outhaul.events import Event

T = TypeVar("T")
Function = Callable[[Any, Any], Any]


class Step:
    """Something to be done for a generator."""

    __slots__ = ()


Steps = Generator[Step, Any, T]


class Begin(Step):
    """Open the transaction; connects first where there is no connection."""


class Commit(Step):
    """Commit it. Raises where a handler ended or broke it."""


class Rollback(Step):
    """Undo it, whatever state it is in. Never raises."""


class IsConnected(Step):
    """Whether the connection is still usable: answers bool."""


BEGIN, COMMIT, ROLLBACK, IS_CONNECTED = Begin(), Commit(), Rollback(), IsConnected()


@dataclass(frozen=True, slots=True)
class Execute(Step):
    """A statement in the transaction: answers its rows, or None when it affected exactly ``full`` rows."""

    query: LiteralString
    parameters: Sequence[Any]
    full: int | None = None


@dataclass(frozen=True, slots=True)
class Once(Step):
    """A statement that is a transaction of its own: answers its rows."""

    query: LiteralString
    parameters: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class CallEach(Step):
    """Call handlers one after another: answers how many ran before ``until`` (monotonic); the first always runs."""

    calls: Sequence[tuple[Function, Event]]
    until: float


@dataclass(frozen=True, slots=True)
class CallMany(Step):
    """Call one batch handler with its messages."""

    function: Function
    events: Sequence[Event]


class Watch(Protocol):
    """Who is told that a handler runs, so that one that hangs is noticed."""

    def begin(self, events: Sequence[Event]) -> None:
        """A handler starts on these."""

    def end(self) -> None:
        """It came back."""


class Unwatched:
    """Nobody looks at the clock: a test's."""

    def begin(self, events: Sequence[Event]) -> None:
        """As Watch."""

    def end(self) -> None:
        """As Watch."""

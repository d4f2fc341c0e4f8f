"""Whose fault is it? The message's, the environment's, or nobody's (a deadlock)?

Only the message's own failure spends an attempt. An environment that is away (the database down, full, read-only)
would fail every message alike, so the consumer waits for it instead. SQLSTATE classes:
https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from enum import Enum

import psycopg

from outhaul.deadletter import Reason, describe_error, tidy
from outhaul.errors import InvalidMessage, OuthaulError, Reject

# Serialization failure, deadlock, lock not available: the same transaction may work a moment later.
_TRANSIENT = frozenset({"40001", "40P01", "55P03"})
# Connection, resources (disk full, too many connections), shutdown, system error; 25006 is a read-only server.
_ENVIRONMENT = ("08", "53", "57P", "58")
_READ_ONLY = "25006"
_UNIQUE = frozenset({"23505", "23P01"})


class Fault(Enum):
    """Whose failure it was."""

    MESSAGE = "message"
    TRANSIENT = "transient"
    ENVIRONMENT = "environment"


class TransactionEnded(OuthaulError):
    """A handler ended the consumer's transaction, or went on after an error in it that it had swallowed.

    The inbox row and the effect are committed together by the consumer, after the handler has returned. A handler that
    wants to undo a part uses ``with tx.transaction():`` (a savepoint); one that wants to give up raises.
    """


def fault_of(error: BaseException, *, connected: bool) -> Fault:
    """Judge what came out of a handler or a commit. ``connected``: the consumer's own connection is still usable."""
    if not connected:
        return Fault.ENVIRONMENT
    for cause in causes(error):
        if isinstance(cause, Reject | InvalidMessage | TransactionEnded):
            return Fault.MESSAGE
        state = cause.sqlstate if isinstance(cause, psycopg.Error) else None
        if state in _TRANSIENT:
            return Fault.TRANSIENT
        if state is not None and (state == _READ_ONLY or state.startswith(_ENVIRONMENT)):
            return Fault.ENVIRONMENT
    return Fault.MESSAGE


def permanent_reason(error: BaseException) -> str | None:
    """The dead-letter reason where another attempt cannot help; None where it may.

    A unique violation is permanent: the inbox has taken out duplicates already, so what is left is another message for
    the same business key.
    """
    for cause in causes(error):
        if isinstance(cause, Reject):
            return Reason.REJECTED
        if isinstance(cause, InvalidMessage):
            return cause.reason
        if isinstance(cause, TransactionEnded):
            return Reason.TRANSACTION_ENDED
        if isinstance(cause, psycopg.Error) and cause.sqlstate in _UNIQUE:
            return Reason.UNIQUE_VIOLATION
    return None


def place_of(error: BaseException) -> str:
    """The error's class and where it was raised: what a log may tell. Its text may quote the payload."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return type(error).__name__
    last = frames[-1]
    return f"{type(error).__name__} at {last.filename}:{last.lineno} in {last.name}"


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from; SQLAlchemy and others keep the driver's error as the cause."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__


def text_of(error: Exception) -> str:
    """What to write down: a Reject's or InvalidMessage's own words, else class and text."""
    for cause in causes(error):
        if isinstance(cause, Reject):
            return tidy(cause.reason)
        if isinstance(cause, InvalidMessage):
            return tidy(cause.detail)
    return describe_error(error)

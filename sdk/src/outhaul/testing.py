"""For users' tests: recorded messages as values, and deliveries through the real inbox over a real database.

What is not here is the broker: a message goes from the outbox row to the consumer's inbox in the test's own hands. A
retry that would wait in a delay queue is simply the next delivery, with the headers it would carry.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from outhaul import events
from outhaul.configuration.durations import parse_duration
from outhaul.consumer import Consumer
from outhaul.consuming.delivery import Delivery, Outcome, Result
from outhaul.errors import ConfigurationError
from outhaul.ids import first_at
from outhaul.message import Message
from outhaul.pending import PendingMessage, chosen, read, read_async

if TYPE_CHECKING:
    from outhaul.pending import AsyncTarget, SyncTarget  # named for type checkers only: SQLAlchemy is an extra

_CLOCK: Final = "SELECT clock_timestamp()"

Word = Literal["handled", "duplicate", "retried", "dead-lettered"]
_WORDS: Mapping[Result, Word] = {
    Result.DONE: "handled",
    Result.DUPLICATE: "duplicate",
    Result.RETRIED: "retried",
    Result.DEAD_LETTERED: "dead-lettered",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """What became of one delivery.

    ``result`` is ``handled`` (its effect and its inbox row are written), ``duplicate`` (they were already),
    ``retried`` (it would wait ``delay_seconds`` and come again) or ``dead-lettered`` with its ``reason``: the word
    people would read in the dead-letter queue. ``error`` is the exception behind a failure, ``detail`` its text.
    ``headers`` are those it would carry on.
    """

    result: Word
    reason: str = ""
    detail: str = ""
    error: BaseException | None = field(default=None, compare=False)
    delay_seconds: float | None = None
    headers: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        because = ": ".join(text for text in (self.reason, self.detail) if text)
        return f"{self.result} ({because})" if because else self.result


@dataclass(frozen=True, slots=True)
class Deliveries(Sequence[Delivered]):
    """The deliveries of one message, in order. The properties speak of the last one."""

    all: tuple[Delivered, ...]

    def __getitem__(self, index: Any) -> Any:
        return self.all[index]

    def __len__(self) -> int:
        return len(self.all)

    @property
    def results(self) -> list[str]:
        """One word for each: ``["handled", "duplicate"]``."""
        return [delivered.result for delivered in self.all]

    @property
    def result(self) -> Word:
        """``handled``, ``duplicate``, ``retried`` or ``dead-lettered``."""
        return self.all[-1].result

    @property
    def reason(self) -> str:
        """Why it was dead-lettered; empty for anything else."""
        return self.all[-1].reason

    @property
    def error(self) -> BaseException | None:
        """The exception behind a failure."""
        return self.all[-1].error

    @property
    def delay_seconds(self) -> float | None:
        """How long a retried message would wait."""
        return self.all[-1].delay_seconds


class NotHandled(AssertionError):
    """A message was retried or dead-lettered in a test that did not say it expects that.

    The handler's own exception is the cause; ``deliveries`` tells the rest. ``check=False`` returns instead.
    """

    def __init__(self, deliveries: Deliveries) -> None:
        super().__init__(
            f"the message was not handled: {deliveries.all[-1]}; if the test is about that, pass check=False"
        )
        self.deliveries = deliveries


class Harness:
    """What the fixture ``outhaul`` is."""

    def pending(
        self,
        conn: SyncTarget,
        *,
        type: str | None = None,  # noqa: A002 - the attribute's name in CloudEvents
        routing_key: str | None = None,
        aggregate_id: str | None = None,
        exchange: str | None = None,
    ) -> list[PendingMessage]:
        """The messages that wait to be sent, in order, as this connection sees them: also those of its own open
        transaction. The transaction is left as it was. Parked messages are not among them.
        """
        return chosen(read(conn), type=type, routing_key=routing_key, aggregate_id=aggregate_id, exchange=exchange)

    async def pending_async(
        self,
        conn: AsyncTarget,
        *,
        type: str | None = None,  # noqa: A002 - as above
        routing_key: str | None = None,
        aggregate_id: str | None = None,
        exchange: str | None = None,
    ) -> list[PendingMessage]:
        """As ``pending``, for a psycopg AsyncConnection or SQLAlchemy's AsyncSession or AsyncConnection."""
        found = await read_async(conn)
        return chosen(found, type=type, routing_key=routing_key, aggregate_id=aggregate_id, exchange=exchange)

    def deliver(
        self,
        consumer: Consumer,
        message: PendingMessage | Message | bytes,
        *,
        times: int = 1,
        conn: psycopg.Connection[Any] | None = None,
        redelivered: bool = False,
        check: bool = True,
    ) -> Deliveries:
        """Hand a message to the consumer through its inbox, ``times`` in a row or until it is dead-lettered.

        ``message`` is what ``pending`` gave, a Message that nobody recorded (it gets an id of the database's time), or
        the bytes of a body. Over ``conn`` everything stays in its transaction, unless it is in autocommit mode;
        without it the consumer's own ``dsn`` is used, and committed to, as in production. ``redelivered`` says that
        the broker has delivered it before, to somebody who never answered.

        Raises NotHandled when it was retried or dead-lettered, unless ``check`` is False.
        """
        _refuse_nonsense(consumer, times, is_async=False)
        found: list[Delivered] = []
        with _connected(consumer, conn) as own:
            delivery = _delivery(message, _now(own), redelivered=redelivered)
            for _ in range(times):
                [outcome] = consumer.process(own, [delivery])
                found.append(_delivered(consumer, outcome))
                if outcome.result is Result.DEAD_LETTERED:
                    break
                delivery = _next(delivery, outcome)
        return _checked(found, check=check)

    async def deliver_async(
        self,
        consumer: Consumer,
        message: PendingMessage | Message | bytes,
        *,
        times: int = 1,
        conn: psycopg.AsyncConnection[Any] | None = None,
        redelivered: bool = False,
        check: bool = True,
    ) -> Deliveries:
        """As ``deliver``, for a consumer whose handlers are ``async def``."""
        _refuse_nonsense(consumer, times, is_async=True)
        found: list[Delivered] = []
        async with _connected_async(consumer, conn) as own:
            delivery = _delivery(message, await _now_async(own), redelivered=redelivered)
            for _ in range(times):
                [outcome] = await consumer.process_async(own, [delivery])
                found.append(_delivered(consumer, outcome))
                if outcome.result is Result.DEAD_LETTERED:
                    break
                delivery = _next(delivery, outcome)
        return _checked(found, check=check)


def _delivery(message: PendingMessage | Message | bytes, now: datetime, *, redelivered: bool) -> Delivery:
    if isinstance(message, bytes):
        return Delivery(message, redelivered=redelivered)
    if isinstance(message, Message):
        message_id = UUID(int=first_at(now).int | 7 << 76 | 2 << 62 | secrets.randbits(62))
        body = events.encode(
            message_id=message_id,
            seq=1,
            event_type=message.type,
            source=message.exchange or "test",
            aggregate_id=message.aggregate_id,
            created_at=now,
            payload=message.payload(),
            content_type=message.content_type,
            causation_id=message.causation_id,
            traceparent=message.traceparent,
        )
        return Delivery(
            body, message.exchange or "", message.routing_key, redelivered, dict(message.headers), str(message_id)
        )
    return Delivery(
        message.body, message.exchange, message.routing_key, redelivered, dict(message.headers), str(message.id)
    )


def _next(delivery: Delivery, outcome: Outcome) -> Delivery:
    """How it would come again: after a failure from the delay tier, with what the failure wrote into its headers."""
    if outcome.letter is None:
        return delivery
    return delivery._replace(headers=outcome.letter.headers(delivery.headers), redelivered=False)


def _delivered(consumer: Consumer, outcome: Outcome) -> Delivered:
    letter = outcome.letter
    waits = outcome.tier.removeprefix(f"{consumer.queue}.retry.")
    return Delivered(
        result=_WORDS[outcome.result],
        reason=letter.reason if letter else "",
        detail=letter.error if letter else "",
        error=outcome.error,
        delay_seconds=parse_duration(waits) if waits else None,
        headers=letter.headers(outcome.delivery.headers) if letter else outcome.delivery.headers,
    )


def _checked(found: list[Delivered], *, check: bool) -> Deliveries:
    deliveries = Deliveries(tuple(found))
    failed = deliveries.all[-1].result in {"retried", "dead-lettered"}
    if check and failed:
        raise NotHandled(deliveries) from deliveries.error
    return deliveries


def _refuse_nonsense(consumer: Consumer, times: int, *, is_async: bool) -> None:
    if times < 1:
        raise ConfigurationError("times", times, "must be at least 1")
    if consumer.registry.is_async != is_async and len(consumer.registry):
        way_out = "await outhaul.deliver_async(...)" if consumer.registry.is_async else "use outhaul.deliver(...)"
        raise TypeError(f"the handlers of consumer {consumer.name!r} are {'not ' * is_async}async: {way_out}")


def _dsn_of(consumer: Consumer) -> str:
    if consumer.database is None:
        raise ConfigurationError("conn", None, "is needed for a consumer without a dsn")
    return consumer.database.conninfo()


@contextmanager
def _connected(consumer: Consumer, conn: psycopg.Connection[Any] | None) -> Iterator[psycopg.Connection[Any]]:
    if conn is not None:
        _open_transaction(conn)
        yield conn
        return
    with psycopg.connect(_dsn_of(consumer), autocommit=True) as own:
        yield own


@asynccontextmanager
async def _connected_async(
    consumer: Consumer, conn: psycopg.AsyncConnection[Any] | None
) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    if conn is not None:
        if not conn.autocommit:
            await conn.execute("SELECT")
        yield conn
        return
    async with await psycopg.AsyncConnection.connect(_dsn_of(consumer), autocommit=True) as own:
        yield own


def _open_transaction(conn: psycopg.Connection[Any]) -> None:
    """An idle connection without autocommit would be in a transaction at its first statement; the inbox, finding none
    open, would commit its own.
    """
    if not conn.autocommit:
        conn.execute("SELECT")


def _now(conn: psycopg.Connection[Any]) -> datetime:
    row = psycopg.Cursor(conn, row_factory=tuple_row).execute(_CLOCK).fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


async def _now_async(conn: psycopg.AsyncConnection[Any]) -> datetime:
    cursor = await psycopg.AsyncCursor(conn, row_factory=tuple_row).execute(_CLOCK)
    row = await cursor.fetchone()
    assert row is not None
    now: datetime = row[0]
    return now

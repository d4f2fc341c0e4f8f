"""What a sender does with outbox rows: claim, confirm, release, fail, park, discard, count. A confirm is a fact.

One async connection in autocommit mode: each statement is its own transaction, so a claim is committed before
anything is published. Rows come back in the order they were recorded.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, LiteralString, NamedTuple, Self
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import set_json_loads

from outhaul import events
from outhaul.amqp.outgoing import NO_HEADERS
from outhaul.database import outbox_queries as queries
from outhaul.database import partitions
from outhaul.database.pooler import never_prepare_through_a_pooler
from outhaul.errors import ConfigurationError, DatabaseUnreachable
from outhaul.settings import DatabaseSettings

# A broker's or driver's message; longer ones repeat themselves.
MOST_CHARACTERS = 2000


class OutboxRow(NamedTuple):
    """One claimed row, with the columns of `outbox` that sending needs."""

    message_id: UUID
    seq: int
    exchange: str
    routing_key: str
    type: str
    source: str
    aggregate_id: str
    payload: bytes
    content_type: str
    headers: Mapping[str, Any]
    causation_id: str | None
    traceparent: str | None
    created_at: datetime
    attempts: int
    lease_token: UUID

    def body(self) -> bytes:
        """The message on the wire. The same row always gives the same bytes."""
        return events.encode(
            message_id=self.message_id,
            seq=self.seq,
            event_type=self.type,
            source=self.source,
            aggregate_id=self.aggregate_id,
            created_at=self.created_at,
            payload=self.payload,
            content_type=self.content_type,
            causation_id=self.causation_id,
            traceparent=self.traceparent,
        )


@dataclass(frozen=True, slots=True)
class Counts:
    """The outbox at one instant of the database's clock.

    ``free`` rows may be taken now, ``leased`` ones are a sender's, ``stuck`` ones are free and older than asked for.
    """

    pending: int
    free: int
    leased: int
    stuck: int
    parked: int
    oldest_at: datetime | None
    at: datetime

    @property
    def oldest_age_seconds(self) -> float:
        """Age of the oldest pending row; 0 when there is none."""
        return (self.at - self.oldest_at).total_seconds() if self.oldest_at else 0.0


class Health(NamedTuple):
    """Rows in the history's default partition (at most 10,000 are counted), and the oldest open transaction's age."""

    default_partition_rows: int
    oldest_transaction_seconds: float


class Discarded(NamedTuple):
    """What was deleted on purpose; kept in the audit record."""

    message_id: UUID
    type: str
    aggregate_id: str
    status: str
    last_error: str | None


class OutboxStore:
    """The sender's view of one outbox. An async context manager; one statement at a time.

    ``prepared_statements`` are used only on a connection straight to the server: see `outhaul.database.pooler`.
    Methods raise psycopg's errors: the caller knows whether to wait or give up.
    """

    def __init__(self, database: DatabaseSettings, *, prepared_statements: bool = True) -> None:
        self._database = database
        self._prepare_threshold = 5 if prepared_statements else None
        self._conn: psycopg.AsyncConnection[Any] | None = None

    async def open(self) -> None:
        """Connect. Raises DatabaseUnreachable."""
        await self.close()
        try:
            self._conn = await psycopg.AsyncConnection.connect(
                self._database.conninfo(), autocommit=True, prepare_threshold=self._prepare_threshold
            )
            await never_prepare_through_a_pooler(self._conn)
            set_json_loads(_load_headers, self._conn)
        except psycopg.OperationalError as error:
            await self.close()
            raise DatabaseUnreachable(self._database.address, str(error).strip()) from error

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._conn is not None:
            conn, self._conn = self._conn, None
            await conn.close()

    def cut(self) -> None:
        """End the connection under a statement that gets no answer: it fails at once, as if the server had gone.

        Cancelling it instead would ask the same silent server, twice, for five seconds each.
        """
        if self._conn is not None and not self._conn.closed:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._conn.fileno())) as held:
                held.shutdown(socket.SHUT_RDWR)

    @property
    def is_open(self) -> bool:
        """Whether there is a connection that was usable when last used."""
        return self._conn is not None and not self._conn.closed

    async def __aenter__(self) -> Self:
        """Connect. Raises DatabaseUnreachable."""
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        await self.close()

    async def claim(self, limit: int, lease_seconds: float) -> list[OutboxRow]:
        """Take up to ``limit`` free rows, oldest first, for ``lease_seconds``; committed when this returns."""
        token = uuid4()
        return await self._rows(queries.CLAIM, {"limit": limit, "token": token, "lease_seconds": lease_seconds})

    async def claim_route(self, exchange: str, routing_key: str, limit: int, lease_seconds: float) -> list[OutboxRow]:
        """As ``claim``, only for one route, and also rows put off because of it: a breaker's probe."""
        parameters = {
            "exchange": exchange,
            "routing_key": routing_key,
            "limit": limit,
            "token": uuid4(),
            "lease_seconds": lease_seconds,
        }
        return await self._rows(queries.CLAIM_ROUTE, parameters)

    async def claim_ids(self, ids: Iterable[UUID], lease_seconds: float) -> list[OutboxRow]:
        """Take these rows, parked ones too (their attempts start anew); rows a live sender holds are left to it."""
        return await self._rows(queries.CLAIM_IDS, {"ids": list(ids), "token": uuid4(), "lease_seconds": lease_seconds})

    async def confirm(self, ids: Iterable[UUID]) -> int:
        """The broker has these: move them to the history, whoever holds the rows. Returns how many moved now.

        Fewer than asked means another sender's confirm of the same row came first. Never an error.
        """
        cursor = await self._execute(queries.CONFIRM, (sorted(ids, key=_by_value),))
        return cursor.rowcount

    async def release(self, rows: Sequence[OutboxRow], *, delay_seconds: float, last_error: str | None) -> int:
        """Give rows back for after ``delay_seconds``, no attempt spent. Fewer than asked: the lease was lost."""
        cursor = await self._execute(
            queries.RELEASE_WITH_LEASE,
            {
                "ids": [row.message_id for row in rows],
                "tokens": [row.lease_token for row in rows],
                "delay_seconds": delay_seconds,
                "last_error": None if last_error is None else _plain(last_error),
            },
        )
        return cursor.rowcount

    async def fail(
        self, row: OutboxRow, *, last_error: str, delay_seconds: float, max_attempts: int, reason: str
    ) -> str | None:
        """The broker refused this very message: spend an attempt, park it at the last.

        Returns ``pending``, ``parked``, or None when the lease was lost and nothing was written.
        """
        cursor = await self._execute(
            queries.FAIL_WITH_LEASE,
            {
                "message_id": row.message_id,
                "token": row.lease_token,
                "last_error": _plain(last_error),
                "delay_seconds": delay_seconds,
                "max_attempts": max_attempts,
                "reason": _plain(reason),
            },
        )
        answer = await cursor.fetchone()
        return None if answer is None else str(answer[1])

    async def unpark(self, ids: Iterable[UUID]) -> list[UUID]:
        """Make parked rows pending again, their attempts forgotten. Returns those that were parked."""
        cursor = await self._execute(queries.UNPARK, (list(ids),))
        return [row[0] for row in await cursor.fetchall()]

    async def discard(self, ids: Sequence[UUID], *, reason: str, actor: str, run_id: str) -> list[Discarded]:
        """Delete rows on purpose, on record in `runs`, in one transaction. Rows a live sender holds stay.

        A ``run_id`` that is on record already was carried out: nothing is deleted again, and its record stands. Raises
        ConfigurationError without a reason.
        """
        if not reason.strip():
            raise ConfigurationError("reason", reason, "say why the message is worthless; it goes on record")
        reason = _plain(reason)
        conn = self._connection()
        async with conn.transaction():
            request = {"reason": reason, "asked": [str(i) for i in ids]}
            start = {"run_id": run_id, "kind": "discard", "actor": _plain(actor), "request": json.dumps(request)}
            if (await conn.execute(queries.RUN_START, start)).rowcount == 0:
                return []
            cursor = await conn.execute(queries.DISCARD, (list(ids),), binary=True)
            gone = [Discarded(*row) for row in await cursor.fetchall()]
            request["discarded"] = [str(row.message_id) for row in gone]
            end = {"run_id": run_id, "request": json.dumps(request), "counts": json.dumps({"discarded": len(gone)})}
            await conn.execute(queries.RUN_RECORD_DISCARD, {**end, "detail": reason})
        return gone

    async def wake_route(self, exchange: str, routing_key: str, *, batch: int = 10_000) -> int:
        """What was put off because of this route is due now. In batches; returns how many rows."""
        woken = 0
        while True:
            cursor = await self._execute(
                queries.WAKE_ROUTE, {"exchange": exchange, "routing_key": routing_key, "limit": batch}
            )
            woken += cursor.rowcount
            if cursor.rowcount < batch:
                return woken

    async def count(self, *, stuck_after_seconds: float = 60.0) -> Counts:
        """The outbox now. Reads every row of the hot table: for people and metrics, not for the sending loop."""
        cursor = await self._execute(queries.COUNT, {"stuck_after_seconds": stuck_after_seconds})
        row = await cursor.fetchone()
        if row is None:  # an aggregate always yields a row
            raise DatabaseUnreachable(self._database.address, "the count returned nothing")
        return Counts(*row)

    async def health(self) -> Health:
        """What slows the outbox down unseen. Cheap, whatever the tables' size."""
        cursor = await self._execute(queries.HEALTH, ())
        row = await cursor.fetchone()
        return Health(*row) if row else Health(0, 0.0)

    async def ids_created_between(self, first: UUID, last: UUID, *, after: UUID, limit: int = 500) -> list[UUID]:
        """One page of ids in ``[first, last)`` beyond ``after``, oldest first."""
        cursor = await self._execute(
            queries.IDS_CREATED_BETWEEN, {"first": first, "last": last, "after": after, "limit": limit}
        )
        return [row[0] for row in await cursor.fetchall()]

    async def ids_parked(self, *, after: UUID, limit: int = 500) -> list[UUID]:
        """One page of parked rows' ids beyond ``after``, oldest first."""
        cursor = await self._execute(queries.IDS_PARKED, {"after": after, "limit": limit})
        return [row[0] for row in await cursor.fetchall()]

    async def clock(self) -> datetime:
        """The database's clock: the one that ages and leases go by."""
        cursor = await self._execute("SELECT clock_timestamp()", ())
        row = await cursor.fetchone()
        if row is None:  # it always yields one
            raise DatabaseUnreachable(self._database.address, "the clock returned nothing")
        at: datetime = row[0]
        return at

    async def heartbeat(self, sender_id: UUID, *, name: str, host: str, version: str, state: str) -> None:
        """Say that this sender lives, and how it fares."""
        await self._execute(
            queries.HEARTBEAT,
            {"sender_id": sender_id, "name": name, "host": host, "version": version, "state": _plain(state)},
        )

    async def forget_sender(self, sender_id: UUID) -> None:
        """The sender ended in order; rows of long dead ones go too."""
        await self._execute(queries.FORGET_SENDER, (sender_id,))
        await self._execute(queries.FORGET_DEAD_SENDERS, ())

    async def make_partitions(self, days_ahead: int = partitions.DAYS_AHEAD) -> int:
        """Make the history's partitions ahead; returns how many. Raises psycopg's InsufficientPrivilege where this role
        may not.
        """
        try:
            cursor = await self._execute(partitions.MAKE_PARTITIONS, ("outbox_sent", days_ahead))
        except psycopg.errors.LockNotAvailable:
            # Somebody reads the whole history; there is a week to try again, and the default partition after that.
            return 0
        row = await cursor.fetchone()
        return int(row[0]) if row else 0

    async def drop_partitions(self, keep_days: int) -> int:
        """Drop history older than that. Never touches an unsent row: those are in another table.

        Raises psycopg's LockNotAvailable while somebody reads the whole history: nothing was dropped, try again.
        """
        cursor = await self._execute(partitions.DROP_PARTITIONS, ("outbox_sent", keep_days))
        row = await cursor.fetchone()
        return int(row[0]) if row else 0

    async def start_run(self, run_id: str, *, kind: str, actor: str, request: Mapping[str, Any]) -> bool:
        """Put a run on record. False when one of that id is there already: the work was asked for twice."""
        cursor = await self._execute(
            queries.RUN_START,
            {"run_id": run_id, "kind": kind, "actor": _plain(actor), "request": json.dumps(request)},
        )
        return cursor.rowcount == 1

    async def finish_run(self, run_id: str, *, state: str, counts: Mapping[str, int], detail: str | None) -> None:
        """Close the record: ``state`` is ``done`` or ``failed``."""
        await self._execute(
            queries.RUN_FINISH,
            {
                "run_id": run_id,
                "state": state,
                "counts": json.dumps(counts),
                "detail": None if detail is None else _plain(detail),
            },
        )

    async def _rows(self, query: LiteralString, parameters: Mapping[str, Any]) -> list[OutboxRow]:
        cursor = await self._execute(query, parameters)
        rows = [OutboxRow._make(row) for row in await cursor.fetchall()]
        rows.sort(key=_by_seq)
        return rows

    async def _execute(
        self, query: LiteralString, parameters: Mapping[str, Any] | Sequence[Any]
    ) -> psycopg.AsyncCursor[Any]:
        cursor = self._connection().cursor(binary=True)
        return await cursor.execute(query, parameters)

    def _connection(self) -> psycopg.AsyncConnection[Any]:
        if self._conn is None:
            raise DatabaseUnreachable(self._database.address, "not connected")
        return self._conn


def _by_seq(row: OutboxRow) -> int:
    return row.seq


def _by_value(message_id: UUID) -> int:
    # Comparing UUIDs themselves costs five times as much; the order is the same.
    return message_id.int


def _load_headers(text: str | bytes) -> Any:
    """Most rows have no headers, and decoding their ``{}`` would be an eighth of what sending them costs."""
    return NO_HEADERS if text in {b"{}", "{}"} else json.loads(text)


def _plain(text: str) -> str:
    """Somebody else's words as PostgreSQL can keep them: without NUL and lone surrogates, and not endless."""
    return text[:MOST_CHARACTERS].replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()

"""Orders in the database: placed once a key, with the message each one causes, in one round trip."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from datetime import UTC
from typing import Any, Final, LiteralString, NamedTuple, Protocol
from uuid import UUID

import msgspec

from outhaul.database.outbox_store import OutboxRow
from outhaul.failpoints import COMMIT_ANSWER
from outhaul.hosting.database import Database, NotCommitted, OutcomeUnknown
from outhaul.hosting.problems import Problem
from outhaul.message import Message
from outhaul.outbox import Outbox, Recorded
from outhaul.sending.handover import HandOverLease
from outhaul_order import problems, queries
from outhaul_order.models import EVENT_TYPE, ROUTING_KEY, OrderCreated, OrderView
from outhaul_order.validation import ValidOrder

ENDPOINT: Final = "POST /orders"
RETRY_AFTER_SECONDS: Final = 1
_encode: Final[Callable[[Any], bytes]] = msgspec.json.Encoder().encode


class HandOver(Protocol):
    """Who publishes a row as soon as it is committed, without having to look for it: the sender in this process."""

    def reserve(self) -> HandOverLease | None:
        """A lease to write one row with; None while it has no room, and the row is written free."""

    def hand_over(self, row: OutboxRow) -> bool:
        """The row is committed under that lease."""

    def give_back(self, lease: HandOverLease) -> None:
        """No row was committed under that lease."""


class Placed(NamedTuple):
    """The order that answers a request. ``replayed``: it was placed by an earlier one with the same key."""

    order_id: UUID
    message_id: UUID
    replayed: bool


class _Result(NamedTuple):
    """One row of PLACE or PLACE_WITH_KEY: what was recorded, else whose turn it was and what the key was used for."""

    recorded: Recorded | None
    mine: bool
    known_order: UUID | None
    known_message: UUID | None
    known_fingerprint: bytes | None


class OrderStore:
    """Places and shows orders. ``keep_keys_seconds``: for how long a key gives its first answer again."""

    def __init__(self, database: Database, outbox: Outbox, hand_over: HandOver, *, keep_keys_seconds: float) -> None:
        self._database = database
        self._outbox = outbox
        self._hand_over = hand_over
        self._keep_keys_seconds = keep_keys_seconds

    async def place(self, valid: ValidOrder, *, key: str | None, traceparent: str | None = None) -> Placed:
        """Write the order, its message and its key, or find what the key was answered before.

        Raises Problem: key-in-use, key-reused, cannot-commit (nothing was written), outcome-unknown.
        """
        order, total_cents = valid
        order_id = new_order_id()
        lines = _encode(order.lines)
        message = Message(
            type=EVENT_TYPE,
            routing_key=ROUTING_KEY,
            aggregate_id=str(order_id),
            data=_encode(OrderCreated(order_id, order.customer, order.lines, total_cents)),
            traceparent=traceparent,
        )
        written = {
            "order_id": order_id,
            "customer": order.customer,
            "lines": lines.decode(),
            "total_cents": total_cents,
        }
        if key is not None:
            written["endpoint"] = ENDPOINT
            written["key"] = key
            written["fingerprint"] = fingerprint_of(order.customer, lines)
            written["keep_seconds"] = self._keep_keys_seconds
        lease = self._hand_over.reserve()
        try:
            result = await self._write(message, lease, written)
        except Problem as problem:
            # A row that may exist keeps its lease: it is free, and found, when that ends.
            if lease is not None and problem.kind is not problems.OUTCOME_UNKNOWN:
                self._hand_over.give_back(lease)
            raise
        if result.recorded is not None:
            COMMIT_ANSWER.hit()
            if lease is not None:
                self._hand_over.hand_over(self._row(message, result.recorded, lease))
            return Placed(order_id, result.recorded.message_id, replayed=False)
        if lease is not None:
            self._hand_over.give_back(lease)
        if result.known_order is None or result.known_message is None:
            detail = "the first request with it has not ended; ask again for its answer"
            raise Problem(problems.KEY_IN_USE, detail, field="Idempotency-Key", retry_after_seconds=RETRY_AFTER_SECONDS)
        if result.known_fingerprint != written["fingerprint"]:
            detail = "send a new order with a new key, or the first order's body to have its answer again"
            raise Problem(problems.KEY_REUSED, detail, field="Idempotency-Key")
        return Placed(result.known_order, result.known_message, replayed=True)

    def _row(self, message: Message, recorded: Recorded, lease: HandOverLease) -> OutboxRow:
        return OutboxRow(
            message_id=recorded.message_id,
            seq=recorded.seq,
            exchange=self._outbox.exchange,
            routing_key=message.routing_key,
            type=message.type,
            source=self._outbox.source,
            aggregate_id=message.aggregate_id,
            payload=message.data,
            content_type=message.content_type,
            headers=message.headers,
            causation_id=None,
            traceparent=message.traceparent,
            created_at=recorded.created_at,
            attempts=0,
            lease_token=lease.token,
        )

    async def _write(self, message: Message, lease: HandOverLease | None, written: dict[str, Any]) -> _Result:
        _, parameters = self._outbox.statement(message, lease=lease)
        parameters.update(written)
        query = queries.PLACE_WITH_KEY if "key" in written else queries.PLACE
        result = await self._place(query, parameters)
        if result.mine and result.recorded is None:
            # The key was committed between this statement's snapshot and its turn: now it can be seen.
            result = await self._place(query, parameters)
        return result

    async def _place(self, query: LiteralString, parameters: dict[str, Any]) -> _Result:
        try:
            row = (await self._database.fetch(query, parameters))[0]
        except OutcomeUnknown as error:
            order_id = parameters["order_id"]
            detail = (
                f"{error.why}; the order may have been taken. Send it again with the same Idempotency-Key; without "
                f"one, look for it at /orders/{order_id} first"
            )
            extra = {"order_id": order_id}
            raise Problem(
                problems.OUTCOME_UNKNOWN, detail, retry_after_seconds=RETRY_AFTER_SECONDS, extra=extra
            ) from error
        except NotCommitted as error:
            raise cannot_commit(error) from error
        return _Result(Recorded(*row[:3]) if row[0] is not None else None, *row[3:])

    async def show(self, order_id: UUID) -> OrderView:
        """The order and how its message fares. Raises Problem: unknown-order, cannot-commit."""
        try:
            rows = await self._database.fetch(queries.SHOW, (order_id,))
        except NotCommitted as error:
            raise Problem(problems.CANNOT_READ, error.why, retry_after_seconds=RETRY_AFTER_SECONDS) from error
        if not rows:
            raise Problem(problems.UNKNOWN_ORDER, f"no order {order_id} was placed here", field="order_id")
        order, message, customer, lines, total_cents, created_at, status = rows[0]
        return OrderView(order, message, status, customer, lines, total_cents, created_at.astimezone(UTC))

    async def not_ready(self) -> str | None:
        """Why orders cannot be taken now; None when they can."""
        return await self._database.not_ready(queries.READY, component="order")

    async def forget_expired_keys(self, limit: int) -> int:
        """Delete up to ``limit`` keys that no longer count; returns how many. Raises NotCommitted."""
        return len(await self._database.fetch(queries.FORGET_EXPIRED_KEYS, (limit,)))


def new_order_id() -> UUID:
    """A UUIDv7 (RFC 9562) by this machine's clock: ids of one time lie together in the index. No one reads its time."""
    milliseconds = time.time_ns() // 1_000_000
    number = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | int.from_bytes(os.urandom(10))
    return UUID(int=number & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)


def fingerprint_of(customer: str, lines: bytes) -> bytes:
    """Tells two orders apart by what they say, not how: white space, the order of names and escapes do not count."""
    return hashlib.sha256(b"\0".join((customer.encode(), lines))).digest()


def cannot_commit(error: NotCommitted) -> Problem:
    """Nothing was written, and it is worth trying again."""
    detail = f"{error.why}; nothing was written, try again"
    return Problem(problems.CANNOT_COMMIT, detail, retry_after_seconds=RETRY_AFTER_SECONDS)

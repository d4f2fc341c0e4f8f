"""Orders become waybills: the whole batch in one statement, inside the transaction that holds its inbox rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import psycopg

from outhaul.events import Event
from outhaul_waybill import queries
from outhaul_waybill.models import Parcel

_encode: Final[Callable[[Any], bytes]] = msgspec.json.Encoder().encode


def make_waybills(messages: Sequence[Event], tx: psycopg.Connection[Any]) -> None:
    """One waybill for each message, whose ``data`` is an OrderCreated. UniqueViolation where an order has one."""
    tx.execute(queries.MAKE_WAYBILLS, columns_of(messages))


def columns_of(messages: Sequence[Event]) -> dict[str, list[Any]]:
    """The parameters of MAKE_WAYBILLS."""
    orders = [message.data for message in messages]
    return {
        "order_ids": [order.order_id for order in orders],
        "customers": [order.customer for order in orders],
        "lines": [_encode([Parcel(line.sku, line.quantity) for line in order.lines]).decode() for order in orders],
        "message_ids": [message.id for message in messages],
        "sequences": [message.sequence for message in messages],
    }

"""The order as it comes in, as it goes out, and as the message tells of it. The OpenAPI document is made from these.

Bounds are chosen so that nothing overflows on the way: amounts stay within 2**53 - 1, which JSON numbers carry
exactly everywhere (RFC 8259 section 6) and which fits PostgreSQL's bigint.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID

from msgspec import Meta, Struct

EVENT_TYPE: Final = "dev.outhaul.order.created.v1"
EXCHANGE: Final = "outhaul.events"
ROUTING_KEY: Final = "order.created"
SOURCE: Final = "outhaul/order"

MAX_CENTS: Final = 2**53 - 1
MAX_LINES: Final = 1000
MAX_QUANTITY: Final = 1_000_000

Customer = Annotated[str, Meta(min_length=1, max_length=200, description="Who orders; not blank, no NUL.")]
Sku = Annotated[str, Meta(min_length=1, max_length=64, description="What is ordered; not blank, no NUL.")]
Quantity = Annotated[int, Meta(ge=1, le=MAX_QUANTITY)]
Cents = Annotated[int, Meta(ge=0, le=MAX_CENTS, description="An amount of money in hundredths of its unit.")]

MessageState = Literal["pending", "sent", "parked", "expired"]


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    """One thing ordered."""

    sku: Sku
    quantity: Quantity
    unit_price_cents: Cents


Lines = Annotated[list[Line], Meta(min_length=1, max_length=MAX_LINES)]


class NewOrder(Struct, frozen=True, forbid_unknown_fields=True):
    """An order to be placed. The sum of quantity x unit_price_cents over its lines is at most 2**53 - 1."""

    customer: Customer
    lines: Lines


class AcceptedOrder(Struct, frozen=True):
    """The order is committed, and so is the message it causes."""

    order_id: UUID
    message_id: UUID
    status: MessageState


class OrderView(Struct, frozen=True):
    """An order and how its message fares.

    `status` is the message's: `pending` (recorded, not yet confirmed by the broker), `sent` (the broker has it),
    `parked` (the broker refused this very message; a person is told), `expired` (sent or discarded, and the history of
    it is gone).
    """

    order_id: UUID
    message_id: UUID
    status: MessageState
    customer: str
    lines: list[Line]
    total_cents: int
    created_at: datetime


class OrderCreated(Struct, frozen=True):
    """The data of the event `dev.outhaul.order.created.v1`."""

    order_id: UUID
    customer: str
    lines: list[Line]
    total_cents: int

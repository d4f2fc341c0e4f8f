"""The message as this function takes it, and a waybill as it shows it.

A tolerant reader: fields it does not know are none of its business. What it does read must fit its table.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from msgspec import Meta, Struct

ORDER_CREATED: Final = "dev.outhaul.order.created.v1"

# PostgreSQL's text holds neither NUL nor half of a surrogate pair, and JSON may carry both.
_STORABLE: Final = r"\A[^\x00\ud800-\udfff]*\Z"

Text = Annotated[str, Meta(min_length=1, max_length=1000, pattern=_STORABLE)]
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Line(Struct, frozen=True):
    """What to ship."""

    sku: Text
    quantity: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    unit_price_cents: Number


class OrderCreated(Struct, frozen=True):
    """The data of `dev.outhaul.order.created.v1`, as far as a waybill needs it."""

    order_id: UUID
    customer: Text
    lines: Annotated[list[Line], Meta(min_length=1, max_length=10_000)]


class Parcel(Struct, frozen=True):
    """One thing to ship, without its price."""

    sku: str
    quantity: int


class WaybillView(Struct, frozen=True):
    """The waybill of an order. `sequence` grows with the producer's messages: a smaller one is the older."""

    waybill_id: UUID
    order_id: UUID
    customer: str
    lines: list[Parcel]
    message_id: UUID
    sequence: int | None
    created_at: datetime

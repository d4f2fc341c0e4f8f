"""Waybills as they are read; they are written by the consumer alone."""

from __future__ import annotations

from datetime import UTC
from typing import Final
from uuid import UUID

from outhaul.hosting.database import Database, NotCommitted
from outhaul.hosting.problems import Problem
from outhaul_waybill import problems, queries
from outhaul_waybill.models import WaybillView

RETRY_AFTER_SECONDS: Final = 1


class WaybillStore:
    """Shows waybills."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def show(self, order_id: UUID) -> WaybillView:
        """The waybill of an order. Raises Problem: unknown-waybill, cannot-read."""
        try:
            rows = await self._database.fetch(queries.SHOW, (order_id,))
        except NotCommitted as error:
            raise Problem(problems.CANNOT_READ, error.why, retry_after_seconds=RETRY_AFTER_SECONDS) from error
        if not rows:
            detail = f"order {order_id} has no waybill here; its message may not have come yet"
            raise Problem(problems.UNKNOWN_WAYBILL, detail, field="order_id")
        waybill_id, order, customer, lines, message_id, sequence, created_at = rows[0]
        return WaybillView(waybill_id, order, customer, lines, message_id, sequence, created_at.astimezone(UTC))

    async def not_ready(self) -> str | None:
        """Why waybills cannot be made now; None when the database would take them."""
        return await self._database.not_ready(queries.READY, component="waybill")

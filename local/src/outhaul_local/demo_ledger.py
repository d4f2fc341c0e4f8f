"""What became of a run's orders, from the two databases' own records.

An order of the run is known by its idempotency key. Every one of them must have a waybill, or lie visibly parked or
dead-lettered; what has none of these is lost. Latency is the waybill's `created_at` minus the order's, both by the
clock of the one PostgreSQL server, so it leaves out the waybill's own commit (a batch's flush, some milliseconds).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import psycopg

ROWS_AT_ONCE = 20_000

# The key is compared byte by byte (the database's collation is C), so the run's keys are a range of the primary key.
_ORDERS = """
SELECT o.order_id, o.created_at, s.message_id IS NOT NULL, coalesce(b.status, '')
FROM idempotency_keys AS k
JOIN orders AS o USING (order_id)
LEFT JOIN outbox AS b ON b.message_id = o.message_id
LEFT JOIN outbox_sent AS s ON s.message_id = o.message_id
WHERE k.key >= %(run)s || '-' AND k.key < %(run)s || '.'
"""
_WAYBILLS = "SELECT order_id, created_at FROM waybills WHERE order_id = ANY(%s)"


@dataclass(slots=True)
class Ledger:
    """Counts over one run. ``seconds`` holds commit-to-waybill times, sorted."""

    committed: int = 0
    sent: int = 0
    parked: int = 0
    waybills: int = 0
    without_waybill: list[UUID] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float | None:
        """The time within which ``share`` (0 to 1) of the waybills came; None when there are none."""
        if not self.seconds:
            return None
        return self.seconds[min(len(self.seconds) - 1, int(share * len(self.seconds)))]


def read_ledger(order_url: str, waybill_url: str, run: str) -> Ledger:
    """Add up the run. Memory: some 100 bytes an order. Raises psycopg.Error."""
    ledger = Ledger()
    with (
        psycopg.connect(order_url) as orders,
        psycopg.connect(waybill_url, autocommit=True) as waybills,
        orders.cursor(name="run") as rows,
    ):
        rows.execute(_ORDERS, {"run": run})
        while some := rows.fetchmany(ROWS_AT_ONCE):
            _add(ledger, some, waybills)
    ledger.seconds.sort()
    return ledger


def _add(
    ledger: Ledger, orders: list[tuple[UUID, datetime, bool, str]], waybills: psycopg.Connection[tuple[UUID, datetime]]
) -> None:
    made = dict(waybills.execute(_WAYBILLS, ([row[0] for row in orders],)).fetchall())
    for order_id, committed_at, sent, status in orders:
        ledger.committed += 1
        ledger.sent += sent
        ledger.parked += status == "parked"
        waybill_at = made.get(order_id)
        if waybill_at is None:
            ledger.without_waybill.append(order_id)
        else:
            ledger.waybills += 1
            ledger.seconds.append((waybill_at - committed_at).total_seconds())

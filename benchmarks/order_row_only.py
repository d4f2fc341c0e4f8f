"""The order function writing the order row and nothing else: the baseline of `orders.py`, run as a process of its own.

The same server, validation and pool; no outbox row, no sender.
"""

from __future__ import annotations

import sys

from outhaul.database.outbox_store import OutboxRow
from outhaul.hosting.process import run
from outhaul.sending.handover import HandOverLease
from outhaul_order import queries, service
from outhaul_order.config import OrderConfig

vars(queries)["PLACE"] = """
INSERT INTO orders (order_id, customer, lines, total_cents, message_id)
VALUES (%(order_id)s::uuid, %(customer)s::text, %(lines)s::jsonb, %(total_cents)s::bigint, outhaul_uuidv7())
RETURNING message_id, 0::bigint, created_at, true, NULL::uuid, NULL::uuid, NULL::bytea"""


class NoSender:
    """Takes nothing over and sends nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def start(self) -> None:
        """Nothing to start."""

    async def close(self) -> None:
        """Nothing to drain."""

    def reserve(self) -> HandOverLease | None:
        """No lease."""
        return None

    def hand_over(self, _row: OutboxRow) -> bool:
        """Not taken."""
        return False

    def give_back(self, lease: HandOverLease) -> None:
        """Nothing was leased."""


vars(service)["Sender"] = NoSender  # stands in for the one that sends

if __name__ == "__main__":
    sys.exit(run("order-row-only", OrderConfig.from_environment, service.serve))

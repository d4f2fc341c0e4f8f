"""Every statement of the waybill function."""

from __future__ import annotations

from typing import Final, LiteralString

# A whole batch is one statement; by order id, so that two batches cannot wait for each other in a circle.
MAKE_WAYBILLS: Final[LiteralString] = """
INSERT INTO waybills (order_id, customer, lines, message_id, sequence)
SELECT order_id, customer, lines::jsonb, message_id, sequence
FROM unnest(%(order_ids)s::uuid[], %(customers)s::text[], %(lines)s::text[], %(message_ids)s::uuid[],
            %(sequences)s::bigint[]) AS w (order_id, customer, lines, message_id, sequence)
ORDER BY order_id"""

SHOW: Final[LiteralString] = """
SELECT waybill_id, order_id, customer, lines, message_id, sequence, created_at FROM waybills WHERE order_id = %s"""

READY: Final[LiteralString] = """
SELECT to_regclass('waybills') IS NOT NULL AND to_regclass('inbox') IS NOT NULL
       AND to_regclass('deliveries') IS NOT NULL,
       current_setting('transaction_read_only') = 'on'"""

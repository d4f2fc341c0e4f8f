"""``POST /orders`` at saturation, beside the same endpoint writing only the order row.

The measured function publishes what it takes, in the same process; the queue it feeds has no consumer.
"""

from __future__ import annotations

from drain import purge
from load import process, saturate
from parts import Figure, Servers, broker

from outhaul.broker_admin.topology_apply import apply
from outhaul.settings import ManagementSettings
from outhaul_waybill.topology import QUEUE, TOPOLOGY

SECONDS = 10


def run(parts: Servers, *, quick: bool) -> list[Figure]:
    """Three rounds of each, in turn."""
    apply(TOPOLOGY, broker(parts), ManagementSettings.parse(parts.management_url))
    seconds = 3 if quick else SECONDS
    figure = Figure("POST /orders at saturation", "orders/s", goal=">= 0.80")
    for _ in range(3):
        for command, into in (
            (["benchmarks/order_row_only.py"], figure.baseline),
            (["-m", "outhaul_order"], figure.measured),
        ):
            environment = {
                "OUTHAUL_ORDER_DATABASE_URL": parts.database("outbox", "order"),
                "OUTHAUL_AMQP_URL": parts.amqp_url,
            }
            with process(command, environment) as (_, port):
                saturate(port, seconds=1)  # warm: pool, prepared statements
                into.append(saturate(port, seconds=seconds))
            purge(parts, QUEUE)
    return [figure]

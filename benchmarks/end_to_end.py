"""Orders over HTTP to waybills in the other database, all processes on this machine: at saturation and at a rate."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal

import psycopg
from consume import waybills
from load import cpu_seconds, paced, process, saturate
from parts import Figure, Servers, broker

from outhaul.broker_admin.topology_apply import apply
from outhaul.settings import ManagementSettings
from outhaul_waybill.topology import TOPOLOGY

RATE = 500
MOST_UNANSWERED = 100  # wrk leaves what is in flight at its end: one order a connection


def run(parts: Servers, *, quick: bool) -> list[Figure]:
    """Saturation first, then 500 orders a second."""
    apply(TOPOLOGY, broker(parts), ManagementSettings.parse(parts.management_url))
    seconds = 5 if quick else 20
    orders, shipping = parts.database("outbox", "order"), parts.database("inbox", "waybill")
    order_settings = {"OUTHAUL_ORDER_DATABASE_URL": orders, "OUTHAUL_AMQP_URL": parts.amqp_url}
    waybill_settings = {"OUTHAUL_WAYBILL_DATABASE_URL": shipping, "OUTHAUL_AMQP_URL": parts.amqp_url}
    with (
        process(["-m", "outhaul_order"], order_settings) as (order, port),
        process(["-m", "outhaul_waybill"], waybill_settings) as (waybill, _),
    ):
        saturate(port, seconds=1)
        _drained(orders, shipping)
        groups = {
            "order": [order.pid],
            "waybill": [waybill.pid],
            "PostgreSQL": [parts.postgres_pid],
            "RabbitMQ": [parts.rabbit_pid],
        }
        before = {name: sum(map(cpu_seconds, pids)) for name, pids in groups.items()}
        placed, already, began = _placed(orders), waybills(shipping), time.monotonic()
        answered = saturate(port, seconds=seconds)
        accepting = time.monotonic() - began
        _drained(orders, shipping)
        whole = time.monotonic() - began
        taken, made = _placed(orders) - placed, waybills(shipping) - already
        if made != taken or abs(answered * accepting - taken) > MOST_UNANSWERED:
            raise SystemExit(f"{answered * accepting:.0f} orders answered, {taken} placed, {made} waybills: no figures")
        spent = {name: sum(map(cpu_seconds, pids)) - before[name] for name, pids in groups.items()}
        split = ", ".join(f"{name} {used / sum(spent.values()):.0%}" for name, used in spent.items())
        lag = whole - accepting
        figures = [
            Figure("end to end, orders accepted at saturation", "orders/s", [taken / accepting], note=f"CPU: {split}"),
            Figure(
                "end to end, waybills made of them",
                "waybills/s",
                [made / whole],
                note=f"all there {lag:.1f} s after the last order",
            ),
        ]
        with psycopg.connect(orders) as conn:
            row = conn.execute("SELECT clock_timestamp()").fetchone()
        asyncio.run(paced(port, rate=RATE, seconds=seconds))
        _drained(orders, shipping)
        p50, p99 = _latencies(orders, shipping, row[0] if row else None)
    figures.append(Figure(f"commit to waybill at {RATE} orders/s, p50", "ms", [p50]))
    figures.append(Figure(f"commit to waybill at {RATE} orders/s, p99", "ms", [p99], goal="<= 50"))
    return figures


def _drained(orders: str, shipping: str) -> None:
    deadline = time.monotonic() + 120
    placed = _placed(orders)
    while waybills(shipping) < placed:
        if time.monotonic() > deadline:
            raise SystemExit("waybills are missing two minutes after the last order")
        time.sleep(0.05)


def _placed(orders: str) -> int:
    with psycopg.connect(orders) as conn:
        row = conn.execute("SELECT count(*) FROM orders").fetchone()
    return int(row[0]) if row else 0


def _latencies(orders: str, shipping: str, since: object) -> tuple[float, float]:
    """From the order's row to the waybill's, milliseconds, both by the one PostgreSQL server's clock."""
    with psycopg.connect(orders) as conn:
        placed: dict[object, Decimal] = dict(
            conn.execute("SELECT order_id, extract(epoch FROM created_at) FROM orders WHERE created_at > %s", (since,))
        )
    with psycopg.connect(shipping) as conn:
        made: dict[object, Decimal] = dict(
            conn.execute("SELECT order_id, extract(epoch FROM created_at) FROM waybills")
        )
    waits = sorted(float(made[order] - at) * 1000 for order, at in placed.items())
    return waits[len(waits) // 2], waits[len(waits) * 99 // 100]

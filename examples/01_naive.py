"""The wrong way: call the other service over HTTP inside the transaction.

An order service and a waybill service have a database each. The order service inserts the order, asks for the waybill,
and commits. It looks atomic. It is not: the call cannot be rolled back.

Two real databases, a real HTTP server, real order processes; see shop/orders.py for the faults.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection

import httpx
import psycopg
from shop import scratch, waybill_over_http, workers
from shop.orders import INSERT_ORDER, ORDERS_TABLE, WAYBILLS_TABLE, Fault, Order, day_of_orders, draw_up

CALL_TIMEOUT_SECONDS = 0.25


def place_order(order: Order, conn: psycopg.Connection, waybills: httpx.Client) -> None:
    """The naive order service."""
    with conn.transaction():
        conn.execute(INSERT_ORDER, (order.order_id, order.customer))
        answer = waybills.post(
            "/waybills",
            json={"order_id": str(order.order_id), "customer": order.customer},
            headers={"X-Fault": "late"} if order.fault is Fault.ANSWER_LOST else {},
        )
        answer.raise_for_status()
        meet_fault(order.fault, conn)


def meet_fault(fault: Fault, conn: psycopg.Connection) -> None:
    """Between the call and the commit, where nothing should ever happen."""
    if fault is Fault.PROCESS_KILLED:
        workers.kill_this_process()
    if fault is Fault.COMMIT_FAILS:
        with psycopg.connect(conn.info.dsn, password=conn.info.password, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (conn.info.backend_pid,))


def serve(orders: Sequence[Order], report: Connection, order_dsn: str, waybill_url: str) -> None:
    """One order process: takes its orders in turn."""
    conn = psycopg.connect(order_dsn, autocommit=True)
    with httpx.Client(base_url=waybill_url, timeout=CALL_TIMEOUT_SECONDS, trust_env=False) as waybills:
        for order in orders:
            try:
                place_order(order, conn, waybills)
                report.send("accepted")
            except httpx.TimeoutException:
                report.send("refused: the call timed out, rolled back")
            except psycopg.OperationalError:
                report.send("refused: the commit failed")
                conn.close()
                conn = psycopg.connect(order_dsn, autocommit=True)
    conn.close()


def main() -> None:
    """Run the day and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=2026)
    asked = parser.parse_args()
    orders = day_of_orders(asked.orders, seed=asked.seed)
    with (
        scratch.database("example_01_orders", tables=[ORDERS_TABLE]) as order_dsn,
        scratch.database("example_01_waybills", tables=[WAYBILLS_TABLE]) as waybill_dsn,
        waybill_over_http.running(waybill_dsn) as waybill_url,
    ):
        began = time.monotonic()
        outcomes = workers.run(serve, orders, order_dsn, waybill_url)
        seconds = time.monotonic() - began
        ledger = draw_up(orders, order_dsn=order_dsn, waybill_dsn=waybill_dsn)
    print(f"01, the HTTP call inside the transaction: {len(orders):,} orders in {seconds:.1f} s\n")
    print(ledger.table())
    print("\n  what the customers were told")
    for outcome, number in Counter(outcomes).most_common():
        print(f"  {number:>6,}  {outcome}")
    print(f"\n  inconsistent: {len(ledger.inconsistent):,} of {len(orders):,}")


if __name__ == "__main__":
    main()

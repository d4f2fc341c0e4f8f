"""The same orders and the same faults as in 01, through Outhaul.

The order service writes the order and its message in one transaction, and calls nobody. A sender in the same process
publishes what was committed. A consumer in another process makes the waybills.

What failed in 01 fails here as well: connections are lost before the commit, the broker's answers are lost after it has
done its work, order processes are killed with their senders in them. On top of that the consumer crashes three times.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection

import psycopg
from psycopg import sql
from shop import scratch, workers
from shop.link import Link, broken_link
from shop.orders import INSERT_ORDER, INSERT_WAYBILL, ORDERS_TABLE, WAYBILLS_TABLE, Fault, Order, day_of_orders, draw_up
from shop.workers import Counted

from outhaul import Consumer, Event, Message, Outbox, Sender
from outhaul.broker_admin.topology_apply import apply
from outhaul.sending.sender_settings import SenderSettings
from outhaul.topology import consumer_topology

outbox = Outbox(exchange="shop.events")
QUEUE = "shop.waybill"
TOPOLOGY = consumer_topology(QUEUE, bindings=[("shop.events", "order.created")])
# A killed sender's rows are free again when its lease ends; a short one, for a short example.
SETTINGS = SenderSettings(confirm_timeout_seconds=1.0, lease_seconds=6.1, poll_seconds=0.2)
WAIT_SECONDS = 60.0


async def place_order(order: Order, conn: psycopg.AsyncConnection, link: Link) -> None:
    """The order service with an outbox."""
    async with conn.transaction():
        await conn.execute(INSERT_ORDER, (order.order_id, order.customer))
        await outbox.add_async(conn, created(order))
        await meet_fault(order.fault, conn, link)


def created(order: Order) -> Message:
    """The message that the order causes."""
    return Message(
        type="shop.order.created.v1",
        routing_key="order.created",
        aggregate_id=str(order.order_id),
        data={"order_id": order.order_id, "customer": order.customer},
    )


async def meet_fault(fault: Fault, conn: psycopg.AsyncConnection, link: Link) -> None:
    """Where 01 met them: just before the commit."""
    if fault is Fault.PROCESS_KILLED:
        workers.kill_this_process()
    if fault is Fault.ANSWER_LOST:
        link.lose_next_confirm()
    if fault is Fault.COMMIT_FAILS:
        async with await psycopg.AsyncConnection.connect(conn.info.dsn, password=conn.info.password) as other:
            await other.execute("SELECT pg_terminate_backend(%s, 5000)", (conn.info.backend_pid,))


def serve(orders: Sequence[Order], report: Connection, order_dsn: str, amqp_url: str, confirms_lost: Counted) -> None:
    """One order process."""
    logging.getLogger("outhaul").setLevel(logging.ERROR)  # that connections are lost is no news here
    asyncio.run(_serve(orders, report, order_dsn, amqp_url, confirms_lost))


async def _serve(
    orders: Sequence[Order], report: Connection, order_dsn: str, amqp_url: str, confirms_lost: Counted
) -> None:
    async with (
        broken_link(amqp_url, on_lost=confirms_lost.add) as (link, through_link),
        Sender(outbox, dsn=order_dsn, amqp_url=through_link, settings=SETTINGS) as sender,
    ):
        conn = await psycopg.AsyncConnection.connect(order_dsn, autocommit=True)
        for order in orders:
            try:
                await place_order(order, conn, link)
                sender.wake()
                report.send("accepted")
                await asyncio.sleep(0.01)  # the next customer; without a pause no cut connection would be back in time
            except psycopg.OperationalError:
                report.send("refused: the commit failed")
                await conn.close()
                conn = await psycopg.AsyncConnection.connect(order_dsn, autocommit=True)
        await until_nothing_is_pending(conn)
        await conn.close()


async def until_nothing_is_pending(conn: psycopg.AsyncConnection) -> None:
    """The last process stays until the rows of those that were killed are sent as well."""
    async with asyncio.timeout(WAIT_SECONDS):
        while (await conn.execute("SELECT FROM outbox LIMIT 1")).rowcount:  # noqa: ASYNC110 - other processes' rows
            await asyncio.sleep(0.05)


def make_waybills(waybill_dsn: str, amqp_url: str) -> None:
    """The waybill service: one consumer process."""
    consumer = Consumer("shipping", queue=QUEUE, dsn=waybill_dsn, amqp_url=amqp_url)

    @consumer.handler("shop.order.created.v1")
    def make_waybill(message: Event, tx: psycopg.Connection) -> None:
        tx.execute(INSERT_WAYBILL, (message.data["order_id"], message.data["customer"]))

    consumer.run()


class WaybillService:
    """Keeps one consumer process running."""

    def __init__(self, waybill_dsn: str, amqp_url: str) -> None:
        self._arguments = (waybill_dsn, amqp_url)
        self._process = workers.start(make_waybills, *self._arguments)

    def crash(self) -> None:
        """No signal handler runs; then another is started."""
        self._process.kill()
        self._process.join()
        self._process = workers.start(make_waybills, *self._arguments)

    def stop(self) -> None:
        """SIGTERM: it finishes what it has in its hands and ends."""
        self._process.terminate()
        self._process.join(WAIT_SECONDS)


def run_the_day(orders: Sequence[Order], order_dsn: str, waybill_dsn: str, amqp_url: str) -> tuple[list[str], int]:
    """Take the orders, crash the consumer three times meanwhile, wait until all is done; outcomes and confirms lost."""
    confirms_lost = workers.Counted()
    service = WaybillService(waybill_dsn, amqp_url)
    with (
        psycopg.connect(waybill_dsn, autocommit=True) as waybills,
        psycopg.connect(order_dsn, autocommit=True) as sent,
        ThreadPoolExecutor(1) as pool,
    ):
        day = pool.submit(workers.run, serve, orders, order_dsn, amqp_url, confirms_lost)
        for quarter in (1, 2, 3):
            enough = partial(day_is_over_or, day, waybills, len(orders) * quarter // 4)
            until(enough, f"quarter {quarter} of the waybills")
            service.crash()
        outcomes = day.result()
        until(lambda: count(waybills, "inbox") == count(sent, "outbox_sent"), "every message consumed")
        until(lambda: scratch.messages_waiting(amqp_url, QUEUE) == 0, "the second copies consumed too")
        service.stop()
    return outcomes, confirms_lost.value


def day_is_over_or(day: Future[list[str]], waybills: psycopg.Connection, many: int) -> bool:
    """Whether all orders were placed or so many waybills made."""
    return day.done() or count(waybills, "waybills") >= many


def until(reached: Callable[[], bool], what: str) -> None:
    """Wait, bounded."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {WAIT_SECONDS:g} s")
        time.sleep(0.05)


def count(conn: psycopg.Connection, table: str) -> int:
    """How many rows a table holds."""
    row = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
    return int(row[0]) if row else 0


def main() -> None:
    """Run the day and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=2026)
    asked = parser.parse_args()
    orders = day_of_orders(asked.orders, seed=asked.seed)
    with (
        scratch.database("example_02_orders", schema=["outbox"], tables=[ORDERS_TABLE]) as order_dsn,
        scratch.database("example_02_waybills", schema=["inbox"], tables=[WAYBILLS_TABLE]) as waybill_dsn,
        scratch.virtual_host("example-02") as amqp_url,
    ):
        apply(TOPOLOGY, amqp_url, scratch.from_environment("OUTHAUL_MANAGEMENT_URL"))
        began = time.monotonic()
        outcomes, confirms_lost = run_the_day(orders, order_dsn, waybill_dsn, amqp_url)
        seconds = time.monotonic() - began
        ledger = draw_up(orders, order_dsn=order_dsn, waybill_dsn=waybill_dsn)
    print(f"02, through Outhaul: {len(orders):,} orders in {seconds:.1f} s\n")
    print(ledger.table())
    print("\n  what the customers were told")
    for outcome, number in Counter(outcomes).most_common():
        print(f"  {number:>6,}  {outcome}")
    print(f"\n  connections cut with their confirms: {confirms_lost:,}; crashes of the consumer: 3")
    print(f"\n  inconsistent: {len(ledger.inconsistent):,} of {len(orders):,}")


if __name__ == "__main__":
    main()

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
import pytest
from pika import frame, spec

from outbox_support import in_loop
from outhaul import Outbox
from outhaul.alerts import Alerter
from outhaul.database.outbox_store import OutboxRow
from outhaul.errors import ConfigurationError, ForkedProcess
from outhaul.metrics import Metrics
from outhaul.outbox import Recorded
from outhaul.sender import Sender
from outhaul.sending.handover import HandOverLease
from outhaul.sending.sender_settings import SenderSettings
from support import BrokerUnderTest, apoll
from support_amqp import Amqp, through_port
from support_outbox import EXCHANGE, KEY, QUEUE, message, pending, record, rows, sent_ids
from support_proxy import Proxy

# A poll that never comes: what is sent was woken or handed over.
ASLEEP = SenderSettings(poll_seconds=600)
QUICK = SenderSettings(poll_seconds=0.2, lease_seconds=20, confirm_timeout_seconds=5, heartbeat_seconds=1)


def declare(broker: BrokerUnderTest) -> None:
    with Amqp(broker) as amqp:
        amqp.exchange(EXCHANGE)
        amqp.queue(QUEUE, (EXCHANGE, KEY))


def depth(broker: BrokerUnderTest) -> int:
    with Amqp(broker) as amqp:
        return amqp.depth(QUEUE)


def bodies(broker: BrokerUnderTest) -> list[dict[str, Any]]:
    with Amqp(broker) as amqp:
        return [json.loads(body) for _, body in amqp.take(QUEUE, amqp.depth(QUEUE))]


def leased(dsn: str, sender: Sender, number: int, *, commit: bool = True) -> tuple[HandOverLease, OutboxRow]:
    """What a producer does: reserve, record with the lease, commit, and know the row."""
    lease = sender.reserve()
    assert lease is not None
    given = message(number)
    with psycopg.connect(dsn) as conn:
        [recorded] = Outbox(exchange=EXCHANGE).add(conn, given, lease=lease)
        if not commit:
            conn.rollback()
    return lease, _row(recorded, lease, number)


def _row(recorded: Recorded, lease: HandOverLease, number: int) -> OutboxRow:
    given = message(number)
    return OutboxRow(
        message_id=recorded.message_id,
        seq=recorded.seq,
        exchange=EXCHANGE,
        routing_key=KEY,
        type=given.type,
        source=EXCHANGE,
        aggregate_id=given.aggregate_id,
        payload=given.payload(),
        content_type=given.content_type,
        headers={},
        causation_id=None,
        traceparent=None,
        created_at=recorded.created_at,
        attempts=0,
        lease_token=lease.token,
    )


def heartbeats(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute("SELECT name, state FROM senders").fetchall()


async def connected(sender: Sender) -> None:
    await apoll(lambda: sender.state().broker == "connected", what="a connection")


@in_loop
async def test_a_wake_up_sends_without_waiting_for_the_poll(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    declare(broker)
    async with Sender(dsn=outbox_dsn, amqp_url=broker.amqp_url, settings=ASLEEP) as sender:
        await connected(sender)
        for n in range(3):
            record(outbox_dsn, message(n))
            await asyncio.to_thread(sender.wake)
            await apoll(lambda n=n: len(sent_ids(outbox_dsn)) == n + 1)  # type: ignore[misc]


@in_loop
async def test_a_row_handed_over_is_sent_without_a_claim(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    declare(broker)
    async with Sender(dsn=outbox_dsn, amqp_url=broker.amqp_url, settings=ASLEEP) as sender:
        await connected(sender)
        for n in range(20):
            _, row = leased(outbox_dsn, sender, n)
            assert sender.hand_over(row)
        await apoll(lambda: pending(outbox_dsn) == 0)
        assert sender._engine is not None
        assert sender._engine.feeder.taken == 0
    assert sorted(int(each["subject"]) for each in bodies(broker)) == list(range(20))


@in_loop
async def test_a_row_handed_over_from_another_thread_is_sent(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    declare(broker)
    async with Sender(dsn=outbox_dsn, amqp_url=broker.amqp_url, settings=ASLEEP) as sender:
        await connected(sender)

        def produce() -> bool:
            return sender.hand_over(leased(outbox_dsn, sender, 1)[1])

        assert await asyncio.to_thread(produce)
        await apoll(lambda: pending(outbox_dsn) == 0)


@in_loop
async def test_a_hand_over_queue_is_bounded_and_room_comes_back(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    declare(broker)
    async with Sender(dsn=outbox_dsn, amqp_url=broker.amqp_url, settings=replace(ASLEEP, hand_over_rows=2)) as sender:
        assert sender.reserve() is None  # nobody to hand over to before the broker is there
        await connected(sender)
        first, second = sender.reserve(), sender.reserve()
        assert first is not None
        assert second is not None
        assert sender.reserve() is None
        sender.give_back(first)
        assert sender.reserve() is not None


@in_loop
async def test_a_row_that_was_never_handed_over_is_sent_after_its_lease(
    outbox_dsn: str, broker: BrokerUnderTest
) -> None:
    declare(broker)
    short = SenderSettings(poll_seconds=0.2, confirm_timeout_seconds=0.4, lease_seconds=5.5)
    async with Sender(dsn=outbox_dsn, amqp_url=broker.amqp_url, settings=short) as sender:
        await connected(sender)
        started = time.monotonic()
        leased(outbox_dsn, sender, 1)  # the commit's outcome was unknown: nothing more is done
        await apoll(lambda: pending(outbox_dsn) == 0, seconds=20)
        assert time.monotonic() - started > 5


@in_loop
async def test_two_senders_share_an_outbox_and_send_each_row(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    declare(broker)
    recorded = record(outbox_dsn, *[message(n) for n in range(5000)])
    one = Sender(dsn=outbox_dsn, amqp_url=broker.amqp_url, settings=QUICK, name="one")
    two = Sender(dsn=outbox_dsn, amqp_url=broker.amqp_url, settings=QUICK, name="two")
    async with one, two:
        await apoll(lambda: pending(outbox_dsn) == 0, seconds=30)
        await apoll(lambda: one.state().sent + two.state().sent == 5000)
    assert sorted(sent_ids(outbox_dsn)) == sorted(each.message_id for each in recorded)
    assert depth(broker) == 5000


@in_loop
async def test_a_slow_confirm_completes_its_row_though_another_sender_holds_it(
    outbox_dsn: str, broker: BrokerUnderTest
) -> None:
    declare(broker)
    parts = urlsplit(broker.amqp_url)
    [recorded] = record(outbox_dsn, message(1))
    with Proxy(parts.hostname or "", parts.port or 0) as proxy:
        url = through_port(broker.amqp_url, proxy.port)
        async with Sender(dsn=outbox_dsn, amqp_url=url, settings=QUICK) as sender:
            await apoll(lambda: sent_ids(outbox_dsn))
            proxy.blackhole()
            record(outbox_dsn, message(2))
            await apoll(lambda: sender.state().unconfirmed == 1)
            with psycopg.connect(outbox_dsn) as conn:
                # As a sender does whose clock ran out first.
                conn.execute(
                    "UPDATE outbox SET lease_token = gen_random_uuid(),"
                    " available_at = clock_timestamp() + interval '1 hour'"
                )
            proxy.heal()
            await apoll(lambda: pending(outbox_dsn) == 0)
    assert recorded.message_id in sent_ids(outbox_dsn)


@in_loop
async def test_a_half_open_link_to_the_broker_is_noticed_and_nothing_is_lost(
    outbox_dsn: str, broker: BrokerUnderTest
) -> None:
    declare(broker)
    parts = urlsplit(broker.amqp_url)
    settings = SenderSettings(poll_seconds=0.2, confirm_timeout_seconds=1, lease_seconds=20)
    with Proxy(parts.hostname or "", parts.port or 0) as proxy:
        url = through_port(broker.amqp_url, proxy.port)
        async with Sender(dsn=outbox_dsn, amqp_url=url, settings=settings) as sender:
            record(outbox_dsn, message(0))
            await apoll(lambda: pending(outbox_dsn) == 0)
            proxy.blackhole()
            record(outbox_dsn, *[message(n) for n in range(1, 200)])
            await apoll(lambda: sender.state().broker == "disconnected")
            await apoll(lambda: {r["status"] for r in rows(outbox_dsn)} == {"pending"})
            proxy.heal()
            await apoll(lambda: pending(outbox_dsn) == 0, seconds=30)
    with psycopg.connect(outbox_dsn) as conn:
        assert conn.execute("SELECT max(attempts), count(*) FROM outbox_sent").fetchone() == (0, 200)


@in_loop
async def test_a_sender_starts_without_the_database_and_keeps_confirms_while_it_is_away(
    outbox_dsn: str, broker: BrokerUnderTest
) -> None:
    declare(broker)
    parts = urlsplit(outbox_dsn)
    record(outbox_dsn, message(0))
    with Proxy(parts.hostname or "", parts.port or 5432) as proxy:
        proxy.stop()
        dsn = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{proxy.port}").geturl()
        async with Sender(dsn=dsn, amqp_url=broker.amqp_url, settings=QUICK) as sender:
            await connected(sender)
            await apoll(lambda: sender.state().database_detail)
            proxy.start()
            await apoll(lambda: pending(outbox_dsn) == 0, seconds=20)
            _, row = leased(outbox_dsn, sender, 1)
            proxy.stop()
            assert sender.hand_over(row)
            await apoll(lambda: depth(broker) == 2)
            await apoll(lambda: sender.state().unmarked == 1)
            proxy.start()
            await apoll(lambda: pending(outbox_dsn) == 0, seconds=20)
            await apoll(lambda: sender.state().unmarked == 0)
    assert depth(broker) == 2


@in_loop
async def test_an_orderly_end_leaves_no_row_leased_and_no_heartbeat(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    declare(broker)
    record(outbox_dsn, *[message(n) for n in range(5000)])
    async with Sender(dsn=outbox_dsn, amqp_url=broker.amqp_url, settings=replace(QUICK, drain_seconds=0)) as sender:
        await apoll(lambda: sender.state().sent > 0)
        await apoll(lambda: heartbeats(outbox_dsn) == [("outhaul sender", "connected")])
    with psycopg.connect(outbox_dsn) as conn:
        assert conn.execute("SELECT count(*) FROM outbox WHERE lease_token IS NOT NULL").fetchone() == (0,)
        assert heartbeats(outbox_dsn) == []
        assert conn.execute("SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM outbox_sent)").fetchone() == (
            5000,
        )


KILLED = """
import asyncio, sys
from outhaul.sender import Sender
from outhaul.sending.sender_settings import SenderSettings

async def main(dsn, amqp_url):
    settings = SenderSettings(lease_seconds=5.5, confirm_timeout_seconds=0.2, window_messages=20)
    async with Sender(dsn=dsn, amqp_url=amqp_url, settings=settings):
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@in_loop
async def test_what_a_killed_sender_had_taken_is_finished_by_another(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    declare(broker)
    recorded = record(outbox_dsn, *[message(n) for n in range(3000)])
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, outbox_dsn, broker.amqp_url)
    try:
        await apoll(lambda: depth(broker) > 0, seconds=30, what="a first message of another process")
    finally:
        process.kill()
        await process.wait()
    with psycopg.connect(outbox_dsn) as conn:
        row = conn.execute("SELECT count(*) FROM outbox WHERE available_at > clock_timestamp()").fetchone()
        assert row is not None
        assert row[0] > 0, "the killed sender held rows"
    async with Sender(dsn=outbox_dsn, amqp_url=broker.amqp_url, settings=QUICK):
        await apoll(lambda: pending(outbox_dsn) == 0, seconds=30)
    assert {each["id"] for each in bodies(broker)} == {str(each.message_id) for each in recorded}


@in_loop
async def test_a_sender_carried_over_a_fork_says_so(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    async with Sender(dsn=outbox_dsn, amqp_url=broker.amqp_url, settings=QUICK) as sender:
        sender._pid = os.getpid() + 1
        for use in (sender.wake, sender.reserve, sender.start):
            with pytest.raises(ForkedProcess, match="child"):
                use()
        sender._pid = os.getpid()


class Webhook:
    """Remembers the alerts posted to it."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.alerts += body["alerts"]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def named(self, name: str) -> list[dict[str, Any]]:
        return [each for each in self.alerts if each["labels"]["alertname"] == name]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@in_loop
async def test_people_are_told_of_a_parked_message_and_metrics_count_it(
    outbox_dsn: str, broker: BrokerUnderTest
) -> None:
    declare(broker)
    [recorded] = record(outbox_dsn, message(1))
    with psycopg.connect(outbox_dsn) as conn:
        # Outhaul refuses this header when the message is made; another program's rows may have it.
        conn.execute("""UPDATE outbox SET headers = '{"BCC": "no list"}'""")
    webhook, metrics = Webhook(), Metrics()
    alerter = Alerter(webhook.url, group_wait_seconds=0.01)
    try:
        async with Sender(
            dsn=outbox_dsn,
            amqp_url=broker.amqp_url,
            settings=replace(QUICK, max_attempts=1),
            alerter=alerter,
            metrics=metrics,
        ):
            await apoll(lambda: webhook.named("OuthaulMessageParked"))
            record(outbox_dsn, message(2))
            await apoll(lambda: pending(outbox_dsn) == 1)
    finally:
        await asyncio.to_thread(alerter.close)
        webhook.close()
    [alert] = webhook.named("OuthaulMessageParked")
    assert str(recorded.message_id) in alert["annotations"]["description"]
    text = metrics.exposition()[0].decode()
    assert 'outhaul_messages_parked_total{reason="refused"} 1.0' in text
    assert 'outhaul_messages_published_total{outcome="refused"} 1.0' in text
    assert 'outhaul_messages_published_total{outcome="confirmed"} 1.0' in text
    assert "outhaul_messages_sent_total 1.0" in text


@in_loop
async def test_the_gauges_people_watch_are_kept(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    record(outbox_dsn, *[message(n, routing_key="order.lost") for n in range(3)])
    declare(broker)
    with psycopg.connect(outbox_dsn) as conn:
        conn.execute(
            "INSERT INTO outbox_sent (message_id, seq, exchange, routing_key, type, aggregate_id, attempts, created_at)"
            " VALUES ('01800000-0000-7000-8000-000000000000', 1, 'e', 'k', 't', '1', 0, '2022-04-01')"
        )
    metrics = Metrics()
    forgetting_nothing = replace(QUICK, history_days=None)  # or that row would go before it is counted

    def shown(line: str) -> bool:
        return line in metrics.exposition()[0].decode()

    with psycopg.connect(outbox_dsn) as held:
        held.execute("SELECT 1")  # a transaction that somebody forgot
        async with Sender(dsn=outbox_dsn, amqp_url=broker.amqp_url, settings=forgetting_nothing, metrics=metrics):
            await apoll(lambda: shown('outhaul_breaker_open{exchange="test.events",routing_key="order.lost"} 1.0'))
            await apoll(lambda: shown('outhaul_default_partition_rows{table="outbox_sent"} 1.0'))
            assert not shown("outhaul_oldest_transaction_seconds 0.0\n")
            assert shown('outhaul_broker_connected{role="publisher"} 1.0')
            with Amqp(broker) as amqp:
                amqp.bind(QUEUE, EXCHANGE, "order.lost")
            await apoll(lambda: pending(outbox_dsn) == 0)
            await apoll(lambda: not shown("outhaul_breaker_open{"))


@in_loop
async def test_history_partitions_are_made_by_a_sender_that_may(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    def partitions() -> int:
        with psycopg.connect(outbox_dsn) as conn:
            row = conn.execute("SELECT count(*) FROM pg_inherits WHERE inhparent = 'outbox_sent'::regclass").fetchone()
        return row[0] if row else 0

    with psycopg.connect(outbox_dsn) as conn:
        for (name,) in conn.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'outbox_sent'::regclass"
        ).fetchall():
            if not name.endswith("_default"):
                conn.execute(psycopg.sql.SQL("DROP TABLE {}").format(psycopg.sql.Identifier(name)))
    before = partitions()
    async with Sender(dsn=outbox_dsn, amqp_url=broker.amqp_url, settings=QUICK):
        await apoll(lambda: partitions() > before + 5)


def tell(sender: Sender, method: Any) -> None:
    """A connection-level frame, handled as if the broker had sent it: a real alarm would hit every test at once."""
    assert sender._engine is not None
    connection = sender._engine.publisher._link.connection
    connection._process_frame(frame.Method(0, method))


@in_loop
async def test_a_blocked_broker_stops_the_claims_and_costs_no_attempt(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    declare(broker)
    async with Sender(dsn=outbox_dsn, amqp_url=broker.amqp_url, settings=QUICK) as sender:
        record(outbox_dsn, message(0))
        await apoll(lambda: pending(outbox_dsn) == 0)
        lease = sender.reserve()
        tell(sender, spec.Connection.Blocked("low on memory"))
        assert sender.state().broker == "blocked"
        assert sender.state().broker_detail == "low on memory"
        assert sender.reserve() is None
        record(outbox_dsn, *[message(n) for n in range(1, 50)])
        # What was promised before the alarm is given back to the database, and says why.
        assert lease is not None
        with psycopg.connect(outbox_dsn) as conn:
            [recorded] = Outbox(exchange=EXCHANGE).add(conn, message(50), lease=lease)
        sender.hand_over(_row(recorded, lease, 50))
        await apoll(lambda: heartbeats(outbox_dsn) == [("outhaul sender", "blocked: low on memory")])
        with psycopg.connect(outbox_dsn) as conn:
            assert conn.execute("SELECT count(*), sum(attempts) FROM outbox").fetchone() == (50, 0)
        tell(sender, spec.Connection.Unblocked())
        await apoll(lambda: pending(outbox_dsn) == 0)


@in_loop
async def test_a_database_that_falls_silent_is_noticed_and_nothing_is_lost(
    outbox_dsn: str, broker: BrokerUnderTest
) -> None:
    declare(broker)
    parts = urlsplit(outbox_dsn)
    # A claim that took effect though its answer was lost holds its rows until the lease ends: a short one here.
    settings = replace(QUICK, statement_timeout_seconds=0.5, confirm_timeout_seconds=0.4, lease_seconds=5.5)
    with Proxy(parts.hostname or "", parts.port or 5432) as proxy:
        dsn = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{proxy.port}").geturl()
        async with Sender(dsn=dsn, amqp_url=broker.amqp_url, settings=settings) as sender:
            record(outbox_dsn, message(0))
            await apoll(lambda: pending(outbox_dsn) == 0)
            proxy.blackhole()
            record(outbox_dsn, *[message(n) for n in range(1, 20)])
            await apoll(lambda: "no answer" in sender.state().database_detail, seconds=30)
            assert sender.state().broker == "connected"
            proxy.heal()
            await apoll(lambda: pending(outbox_dsn) == 0, seconds=30)
    assert depth(broker) >= 20


@in_loop
async def test_ending_takes_bounded_time_though_the_database_is_silent(
    outbox_dsn: str, broker: BrokerUnderTest
) -> None:
    declare(broker)
    parts = urlsplit(outbox_dsn)
    with Proxy(parts.hostname or "", parts.port or 5432) as proxy:
        dsn = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{proxy.port}").geturl()
        sender = Sender(dsn=dsn, amqp_url=broker.amqp_url, settings=replace(QUICK, drain_seconds=1))
        async with sender:
            record(outbox_dsn, message(0))
            await apoll(lambda: pending(outbox_dsn) == 0)
            proxy.blackhole()
            began = time.monotonic()
        assert time.monotonic() - began < 12


def make_old_day(dsn: str, days_ago: int) -> UUID:
    """A message sent that many days ago, in that day's partition."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute(
            "SELECT day, outhaul_first_id(day), outhaul_first_id(day + 1) "
            "FROM (SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date - %s::integer AS day) AS that",
            (days_ago,),
        ).fetchone()
        assert row is not None
        day, first, after = row
        conn.execute(
            f"CREATE TABLE outbox_sent_p{day:%Y%m%d} PARTITION OF outbox_sent "
            f"FOR VALUES FROM ('{first}') TO ('{after}')".encode()
        )
        old = UUID(int=first.int | 7 << 76 | 2 << 62)
        conn.execute(
            "INSERT INTO outbox_sent "
            "(message_id, seq, exchange, routing_key, type, aggregate_id, attempts, created_at) "
            "VALUES (%s, %s, 'e', 'k', 't', 'a', 0, now())",
            (old, -days_ago),
        )
    return old


@in_loop
async def test_a_living_sender_drops_history_past_its_days_and_nothing_else(
    outbox_dsn: str, broker: BrokerUnderTest
) -> None:
    unsent = record(outbox_dsn, message(1, routing_key="nobody.listens"))[0].message_id
    old, kept = make_old_day(outbox_dsn, 31), make_old_day(outbox_dsn, 29)
    async with Sender(dsn=outbox_dsn, amqp_url=broker.amqp_url, settings=QUICK):
        await apoll(lambda: old not in sent_ids(outbox_dsn))
    assert kept in sent_ids(outbox_dsn)
    assert [row["message_id"] for row in rows(outbox_dsn)] == [unsent]


@in_loop
async def test_a_sender_told_of_no_days_leaves_the_history_alone(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    old = make_old_day(outbox_dsn, 400)

    def beaten_twice() -> bool:
        with psycopg.connect(outbox_dsn) as conn:
            return conn.execute("SELECT FROM senders WHERE seen_at > started_at").fetchone() is not None

    async with Sender(dsn=outbox_dsn, amqp_url=broker.amqp_url, settings=replace(QUICK, history_days=None)):
        await apoll(beaten_twice)  # the housekeeping stands between two heartbeats
    assert old in sent_ids(outbox_dsn)


@in_loop
async def test_history_that_somebody_reads_stays_and_the_sending_goes_on(
    outbox_dsn: str, broker: BrokerUnderTest
) -> None:
    old = make_old_day(outbox_dsn, 31)
    declare(broker)
    with psycopg.connect(outbox_dsn) as reader:
        reader.execute("SELECT count(*) FROM outbox_sent")
        async with Sender(
            dsn=outbox_dsn, amqp_url=broker.amqp_url, settings=replace(QUICK, housekeeping_seconds=0.5)
        ) as sender:
            record(outbox_dsn, message(1))
            await apoll(lambda: sender.state().sent == 1)
            reader.rollback()
            await apoll(lambda: old not in sent_ids(outbox_dsn))


@pytest.mark.parametrize("days", [0, -1, 36_501])
def test_history_kept_for_no_day_or_past_all_reason_is_refused(days: int) -> None:
    with pytest.raises(ConfigurationError, match="history_days"):
        SenderSettings(history_days=days)

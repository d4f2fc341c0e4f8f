"""What a consumer does besides handling messages: retention, alerts, metrics, and messages of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import prometheus_client
import psycopg
import pytest

from consuming import QUEUE, TYPE, Database, Shop, body, message_id, opened_shop, prepare
from outhaul import Consumer, Message, Outbox, Reject
from outhaul.alerts import Alerter
from outhaul.consuming.delivery import Delivery
from outhaul.events import Event
from outhaul.metrics import Metrics
from support import BrokerUnderTest, poll


@pytest.fixture
def shop(broker: BrokerUnderTest, inbox_dsn: str) -> Iterator[Shop]:
    with opened_shop(broker, inbox_dsn) as shop:
        yield shop


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[bytes]]]:
    received: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", received
    server.shutdown()
    thread.join()
    server.server_close()


def note(message: Event, tx: psycopg.Connection[Any]) -> None:
    tx.execute("INSERT INTO effects (number) VALUES (%s)", (message.data["order"],))


def partitions(database: Database) -> set[str]:
    rows = database.query("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'inbox'::regclass")
    return {row[0] for row in rows}


def test_old_inbox_partitions_are_dropped_and_new_ones_made(shop: Shop) -> None:
    database = shop.database
    [(old, kept)] = database.query(
        "SELECT 'inbox_p' || to_char(now() AT TIME ZONE 'UTC' - interval '5 days', 'YYYYMMDD'),"
        " 'inbox_p' || to_char(now() AT TIME ZONE 'UTC' - interval '2 days', 'YYYYMMDD')"
    )
    for name, days in ((old, 5), (kept, 2)):
        with database.connect() as conn:
            conn.execute(f"CREATE TABLE {name} (LIKE inbox INCLUDING ALL)".encode())
            conn.execute(
                f"ALTER TABLE inbox ATTACH PARTITION {name} FOR VALUES FROM"
                f" ('{first_id(database, days)}') TO ('{first_id(database, days - 1)}')".encode()
            )
    with shop.consumer(note, retention=timedelta(days=2)) as consumer:
        poll(lambda: consumer.active, what="consuming")
        found = partitions(database)
        assert old not in found
        assert kept in found
        [(ahead,)] = database.query(
            "SELECT 'inbox_p' || to_char(now() AT TIME ZONE 'UTC' + interval '7 days', 'YYYYMMDD')"
        )
        assert ahead in found
        shop.publish(body({"order": 1}, event_id=message_id(3 * 86_400_000))[1], body({"order": 2})[1])
        [(headers, _)] = shop.wait_for_letters(1)
    assert headers["x-outhaul-reason"] == "too-old"
    assert database.effects() == [2]


def first_id(database: Database, days_ago: int) -> str:
    [(value,)] = database.query(
        "SELECT outhaul_first_id((now() AT TIME ZONE 'UTC')::date - %s::integer)::text", days_ago
    )
    return str(value)


def test_a_consumer_without_rights_for_the_upkeep_consumes_all_the_same(shop: Shop) -> None:
    role = "lean_" + shop.broker.vhost.replace("-", "_")
    try:
        with shop.database.connect() as conn:
            for grant in (
                f"CREATE ROLE {role} LOGIN",
                f"GRANT SELECT, INSERT, DELETE ON inbox TO {role}",
                f"GRANT SELECT, INSERT, UPDATE, DELETE ON deliveries TO {role}",
                f"GRANT SELECT ON retention TO {role}",
                f"GRANT INSERT ON effects TO {role}",
            ):
                conn.execute(grant.encode())
        dsn = shop.database.dsn.replace("//postgres@", f"//{role}@")
        if role not in dsn:
            pytest.skip("the test server asks for passwords")
        with shop.consumer(note, dsn=dsn):
            shop.send(3)
            poll(lambda: shop.database.effects() == [1, 2, 3], what="the effects")
    finally:
        for consumer in shop.opened:
            consumer.close()
        with shop.database.connect() as conn:
            conn.execute(f"DROP OWNED BY {role}".encode())
            conn.execute(f"DROP ROLE {role}".encode())


def test_dead_letters_and_outages_are_told_to_people(shop: Shop, webhook: tuple[str, list[bytes]]) -> None:
    url, received = webhook
    alerter = Alerter(url, group_wait_seconds=0.05, group_interval_seconds=0.1)

    def refuse(message: Event, tx: object) -> None:
        raise Reject("no courier")

    with shop.consumer(refuse, alerter=alerter):
        shop.send(3)
        poll(lambda: received, what="the alert")
    alerter.close()
    assert b'"OuthaulDeadLetter"' in received[0]
    assert b'"reason": "rejected"' in received[0] or b'"reason":"rejected"' in received[0]


def test_what_happens_is_counted(shop: Shop) -> None:
    metrics = Metrics(prometheus_client.CollectorRegistry())

    def handle(message: Event, tx: psycopg.Connection[Any]) -> None:
        note(message, tx)
        if message.data["order"] == 2:
            raise Reject("two")
        if message.data["order"] == 3 and not message.headers:
            raise ValueError("not yet")

    def value(name: str, **labels: str) -> float:
        return float(metrics.registry.get_sample_value(name, labels) or 0)

    _, content = body({"order": 1})
    with shop.consumer(handle, metrics=metrics):
        shop.publish(content, content)
        shop.send(2, first=2)
        poll(lambda: shop.database.effects() == [1, 3], what="the effects")
        poll(lambda: value("outhaul_dead_letters_total", reason="rejected") == 1, what="the letter counted")
        poll(lambda: value("outhaul_inbox_consumed_total", result="done") == 2, what="both counted")
        assert value("outhaul_consumer_active") == 1
    assert value("outhaul_consumer_active") == 0
    assert value("outhaul_inbox_consumed_total", result="duplicate") == 1
    assert value("outhaul_inbox_consumed_total", result="retried") == 1
    assert value("outhaul_inbox_consumed_total", result="dead_lettered") == 1
    assert value("outhaul_retries_total") == 1
    assert value("outhaul_commit_to_consumed_seconds_count") == 2


def test_a_handler_records_messages_of_its_own_in_the_same_transaction(make_database: Any) -> None:
    database = prepare(make_database(("outbox", "inbox")))
    outbox = Outbox(exchange="shop.events")
    consumer = Consumer("shipping", queue=QUEUE)

    @consumer.handler(TYPE)
    def ship(message: Event, tx: psycopg.Connection[Any]) -> None:
        outbox.add(tx, Message(type="shop.waybill.v1", routing_key="waybill", aggregate_id="1", data={"a": 1}))
        if message.data["order"] == 2:
            raise Reject("two")

    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    event_id, good = body({"order": 1}, traceparent=trace)
    _, bad = body({"order": 2})
    with database.connect() as conn:
        consumer.process(conn, [Delivery(good), Delivery(bad), Delivery(good)])
    assert database.query("SELECT causation_id, traceparent FROM outbox") == [(str(event_id), trace)]

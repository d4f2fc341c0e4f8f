"""The ledger is only worth its proofs: in real databases and queues it catches what was put there to be caught."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import pika
import psycopg
import pytest
from psycopg.types.json import Jsonb

from chaos.ledger import LETTER_ALERT, PARKED_ALERT, Told, Verdict, judge
from chaos.ledger_reading import backlog, read
from chaos.servers import Servers
from outhaul.broker_admin.topology_apply import apply
from outhaul_waybill.topology import QUEUE, TOPOLOGY
from support import BrokerUnderTest, poll
from support_amqp import Amqp

ADD_ORDER = "INSERT INTO orders (order_id, customer, lines, total_cents, message_id) VALUES (%s, %s, %s, 1, %s)"
ADD_WAYBILL = "INSERT INTO waybills (order_id, customer, lines, message_id) VALUES (%s, %s, %s, %s)"
ADD_ROW = """
INSERT INTO outbox (message_id, exchange, routing_key, type, source, aggregate_id, payload, status)
VALUES (%s, 'outhaul.events', 'order.created', 't', 's', %s, '', %s)
"""


@dataclass(slots=True)
class Books:
    """Books written by hand. Each order is told to a client unless the test says otherwise."""

    order_dsn: str
    waybill_dsn: str
    broker: BrokerUnderTest
    told: Told = field(default_factory=Told)

    def order(self, key: str, *, order_id: str | None = None) -> tuple[str, str]:
        order_id, message_id = order_id or str(uuid.uuid4()), str(uuid.uuid4())
        self._write(self.order_dsn, ADD_ORDER, order_id, key, Jsonb([]), message_id)
        self.told.attempted.add(key)
        self.told.acknowledged[key].add(order_id)
        return order_id, message_id

    def waybill(self, order_id: str, key: str) -> None:
        self._write(self.waybill_dsn, ADD_WAYBILL, order_id, key, Jsonb([]), str(uuid.uuid4()))

    def row(self, message_id: str, order_id: str, status: str) -> None:
        self._write(self.order_dsn, ADD_ROW, message_id, order_id, status)

    def whole(self, key: str) -> tuple[str, str]:
        order_id, message_id = self.order(key)
        self.waybill(order_id, key)
        return order_id, message_id

    def queue(self, queue: str, message_id: str) -> None:
        connection = pika.BlockingConnection(pika.URLParameters(self.broker.amqp_url))
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("", queue, b"{}", pika.BasicProperties(message_id=message_id, delivery_mode=2))
        connection.close()

    def forget(self, table: str) -> None:
        dsn = self.waybill_dsn if table == "waybills" else self.order_dsn
        self._write(dsn, f"DELETE FROM {table}")

    def verdict(self, *alerts: str) -> Verdict:
        return judge(self.told, read(self.order_dsn, self.waybill_dsn, self.broker), alerts=alerts)

    def _write(self, dsn: str, statement: str, *values: object) -> None:
        with psycopg.connect(dsn) as conn:
            conn.execute(statement.encode(), values)


@pytest.fixture(scope="module")
def library(servers: Servers) -> Iterator[tuple[str, str, BrokerUnderTest]]:
    """Databases and queues for all tests here. A waybill table that takes two for one order, or none could be seen."""
    with servers.virtual_host() as broker, servers.databases() as (order_dsn, waybill_dsn):
        apply(TOPOLOGY, broker.amqp_url, broker.management_url)
        with psycopg.connect(waybill_dsn) as conn:
            conn.execute("ALTER TABLE waybills DROP CONSTRAINT waybills_order_id_key")
        yield order_dsn, waybill_dsn, broker


@pytest.fixture
def books(library: tuple[str, str, BrokerUnderTest]) -> Books:
    order_dsn, waybill_dsn, broker = library
    for dsn, tables in ((order_dsn, "orders, outbox"), (waybill_dsn, "waybills")):
        with psycopg.connect(dsn) as conn:
            conn.execute(f"TRUNCATE {tables}".encode())
    with Amqp(broker) as amqp:
        for queue in TOPOLOGY.queues:
            amqp.purge(queue.name)
    return Books(order_dsn, waybill_dsn, broker)


def test_books_without_a_fault_are_whole(books: Books) -> None:
    for number in range(5):
        books.whole(f"key-{number}")
    books.told.unknown["key-0"] += 2
    verdict = books.verdict()
    verdict.require_whole()
    assert (verdict.attempted, verdict.acknowledged, verdict.committed, verdict.waybills) == (5, 5, 5, 5)
    assert verdict.recovered == 1


def test_an_order_without_a_waybill_is_lost(books: Books) -> None:
    books.whole("fine")
    order_id, _ = books.order("lost")
    verdict = books.verdict()
    assert [order_id in each for each in verdict.lost] == [True]
    with pytest.raises(AssertionError, match="1 breaches"):
        verdict.require_whole()


def test_an_order_that_nobody_was_told_of_is_lost_all_the_same_without_a_waybill(books: Books) -> None:
    books.order("unanswered")
    books.told.acknowledged.clear()
    books.told.unknown["unanswered"] += 1
    assert len(books.verdict().lost) == 1


def test_an_acknowledged_order_that_is_not_there_is_lost_and_its_waybill_an_orphan(books: Books) -> None:
    books.whole("gone")
    books.forget("orders")
    verdict = books.verdict()
    assert (len(verdict.lost), len(verdict.unexpected)) == (1, 1)


def test_a_second_waybill_of_an_order_is_a_duplicate(books: Books) -> None:
    order_id, _ = books.whole("twice")
    books.waybill(order_id, "twice")
    assert books.verdict().duplicated == [f"order {order_id} (twice) has 2 waybill"]


def test_two_orders_of_one_key_are_a_duplicate(books: Books) -> None:
    books.whole("twice")
    books.whole("twice")
    verdict = books.verdict()
    assert len(verdict.duplicated) == 1
    assert "key twice was answered with 2 orders" in verdict.unexpected


def test_a_waybill_and_a_dead_letter_for_one_order_are_one_too_many(books: Books) -> None:
    _, message_id = books.whole("both")
    books.queue(f"{QUEUE}.dlq", message_id)
    assert len(books.verdict(LETTER_ALERT).duplicated) == 1


def test_a_waybill_without_an_order_is_an_orphan(books: Books) -> None:
    books.waybill(str(uuid.uuid4()), "nobody")
    assert len(books.verdict().unexpected) == 1


def test_a_waybill_made_out_to_another_is_unexpected(books: Books) -> None:
    order_id, _ = books.order("right")
    books.waybill(order_id, "wrong")
    assert "made out to 'wrong'" in books.verdict().unexpected[0]


def test_an_order_that_no_client_asked_for_is_unexpected(books: Books) -> None:
    books.whole("nobody")
    books.told.attempted.clear()
    books.told.acknowledged.clear()
    assert len(books.verdict().unexpected) == 1


def test_an_order_that_was_refused_and_is_there_is_unexpected(books: Books) -> None:
    books.whole("refused")
    books.told.acknowledged.clear()
    books.told.refused["refused"] = 422
    assert "was refused with 422" in books.verdict().unexpected[0]


@pytest.mark.parametrize("queue", [QUEUE, f"{QUEUE}.retry.5m", f"{QUEUE}.dlq"])
def test_a_message_of_no_order_is_unexpected_in_whatever_queue(books: Books, queue: str) -> None:
    books.queue(queue, str(uuid.uuid4()))
    assert f"a message in {queue}" in books.verdict(LETTER_ALERT).unexpected[0]


def test_a_dead_letter_or_a_parked_row_is_an_orders_end_if_somebody_was_told(books: Books) -> None:
    order_id, parked = books.order("parked")
    books.row(parked, order_id, "parked")
    _, letter = books.order("letter")
    books.queue(f"{QUEUE}.dlq", letter)
    assert len(books.verdict().unreported) == 2
    verdict = books.verdict(PARKED_ALERT, LETTER_ALERT)
    verdict.require_whole()
    assert (verdict.parked, verdict.dead_lettered) == (1, 1)


def test_what_still_waits_is_not_lost_but_a_backlog(books: Books) -> None:
    order_id, pending = books.order("pending")
    books.row(pending, order_id, "pending")
    _, queued = books.order("queued")
    books.queue(QUEUE, queued)
    verdict = books.verdict()
    assert verdict.violations() == ["the backlog is 2, not zero"]
    poll(lambda: backlog(books.order_dsn, books.broker) == 2, what="both in the backlog")


def test_a_message_made_to_be_a_dead_letter_is_missed_and_two_are_one_too_many(books: Books) -> None:
    books.told.injected |= {"one", "none", "two"}
    for message_id in ("one", "two", "two"):
        books.queue(f"{QUEUE}.dlq", message_id)
    verdict = books.verdict(LETTER_ALERT)
    assert (len(verdict.lost), len(verdict.duplicated), verdict.unexpected) == (1, 1, [])


def test_reading_leaves_every_message_where_it_is(books: Books) -> None:
    _, message_id = books.order("queued")
    books.queue(QUEUE, message_id)
    assert books.verdict() == books.verdict()

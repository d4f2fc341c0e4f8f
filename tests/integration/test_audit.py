from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from outhaul.errors import ConfigurationError
from outhaul.ids import first_at
from outhaul.tools import audit as audits
from outhaul.tools.audit import Audit, Queues, Scope, audit

Connection = psycopg.Connection[Any]


@dataclass
class Sides:
    """Both databases, written to as the sender and the consumer would."""

    outbox: Connection
    inbox: Connection

    def now(self) -> datetime:
        row = self.outbox.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None
        moment: datetime = row[0]
        return moment

    def send(
        self, count: int = 1, *, age: timedelta = timedelta(hours=1), routing_key: str = "order.created"
    ) -> list[UUID]:
        moment = self.now() - age
        ids = sorted(UUID(int=first_at(moment).int + (uuid4().int & (2**64 - 1))) for _ in range(count))
        with self.outbox.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO outbox_sent (message_id, seq, exchange, routing_key, type, aggregate_id, attempts, "
                "created_at, sent_at) VALUES (%s, 1, 'shop.events', %s, 'shop.order.created.v1', 'order-1', 0, %s, %s)",
                [(message_id, routing_key, moment, moment) for message_id in ids],
            )
        return ids

    def consume(self, ids: list[UUID], consumer: str = "waybill") -> None:
        with self.inbox.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO inbox (consumer, message_id, payload_hash) VALUES (%s, %s, 'x')",
                [(consumer, message_id) for message_id in ids],
            )

    def audit(self, queues: Queues | None = None, **scope: Any) -> Audit:
        return audit(self.outbox, self.inbox, Scope(consumer="waybill", **scope), queues or Queues(waiting=0))


@contextmanager
def opened(outbox_dsn: str, inbox_dsn: str) -> Iterator[Sides]:
    with psycopg.connect(outbox_dsn, autocommit=True) as outbox, psycopg.connect(inbox_dsn, autocommit=True) as inbox:
        yield Sides(outbox, inbox)


@pytest.fixture
def sides(make_database: Callable[..., str]) -> Iterator[Sides]:
    dsn = make_database(("outbox", "inbox"))
    with opened(dsn, dsn) as both:
        yield both


def test_what_was_sent_and_consumed_is_matched_over_several_pages(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audits, "PAGE_ROWS", 7)
    sides.consume(sides.send(50))
    result = sides.audit()
    assert (result.matched, result.unaccounted, result.never_sent) == (50, 0, 0)
    assert result.is_clean


def test_a_message_that_is_nowhere_is_lost(sides: Sides) -> None:
    sides.consume(sides.send(3))
    [gone] = sides.send(1)
    result = sides.audit()
    assert result.lost == 1
    assert result.unaccounted_ids == [gone]


def test_a_message_consumed_without_ever_being_sent_is_found(sides: Sides) -> None:
    sides.send(1)
    stranger = UUID(int=first_at(sides.now() - timedelta(minutes=5)).int + 7)
    sides.consume([stranger])
    result = sides.audit(grace_seconds=7200.0)
    assert result.never_sent_ids == [stranger]
    assert not result.is_clean


def test_a_message_within_the_grace_period_is_in_flight(sides: Sides) -> None:
    sides.send(2, age=timedelta(seconds=5))
    result = sides.audit(grace_seconds=60.0)
    assert (result.in_flight, result.unaccounted) == (2, 0)


def test_a_dead_letter_is_not_lost(sides: Sides) -> None:
    [dead] = sides.send(1)
    result = sides.audit(Queues(waiting=0, dead=frozenset({dead})))
    assert (result.dead_lettered, result.lost) == (1, 0)


def test_a_message_whose_delivery_is_failing_is_not_lost(sides: Sides) -> None:
    [failing] = sides.send(1)
    sides.inbox.execute("INSERT INTO deliveries (consumer, message_id, started) VALUES ('waybill', %s, 2)", (failing,))
    result = sides.audit()
    assert (result.failing, result.lost) == (1, 0)


def test_a_message_consumed_before_its_confirm_was_marked_is_no_stranger(sides: Sides) -> None:
    row = sides.outbox.execute(
        "INSERT INTO outbox (exchange, routing_key, type, source, aggregate_id, payload) "
        "VALUES ('e', 'k', 't', 's', 'a', '{}') RETURNING message_id"
    ).fetchone()
    assert row is not None
    sides.consume([row[0]])
    # The id is of this very millisecond; the audit looks at what is older than its own start.
    result = sides.audit()
    assert (result.consumed_unmarked, result.never_sent, result.unsent) == (1, 0, 1)


def test_another_consumers_inbox_rows_do_not_count(sides: Sides) -> None:
    sides.consume(sides.send(1), consumer="billing")
    assert sides.audit().lost == 1


def test_routes_that_do_not_lead_to_the_consumer_are_left_out(sides: Sides) -> None:
    sides.send(4, routing_key="order.cancelled")
    result = sides.audit(routed=lambda _exchange, routing_key: routing_key == "order.created")
    assert (result.unaccounted, result.matched) == (0, 0)


def test_history_that_a_side_has_forgotten_is_not_compared(sides: Sides) -> None:
    sides.send(3, age=timedelta(days=20))
    sides.inbox.execute("SELECT outhaul_drop_partitions('inbox', 10)")
    result = sides.audit()
    assert result.unaccounted == 0
    assert result.since > sides.now() - timedelta(days=12)


def test_since_narrows_what_is_compared(sides: Sides) -> None:
    sides.send(3, age=timedelta(hours=5))
    assert sides.audit(since=sides.now() - timedelta(hours=2)).unaccounted == 0


def test_the_only_consumer_is_found_by_itself(sides: Sides) -> None:
    sides.consume(sides.send(2))
    assert audits.only_consumer(sides.inbox) == "waybill"


def test_two_consumers_need_a_choice(sides: Sides) -> None:
    ids = sides.send(2)
    sides.consume(ids)
    sides.consume(ids, consumer="billing")
    with pytest.raises(ConfigurationError, match="billing, waybill"):
        audits.only_consumer(sides.inbox)


def test_each_side_may_have_a_database_of_its_own(outbox_dsn: str, inbox_dsn: str) -> None:
    with opened(outbox_dsn, inbox_dsn) as both:
        both.consume(both.send(5))
        both.send(2)
        result = both.audit()
        assert (result.matched, result.lost) == (5, 2)

"""The outbox against a model of it: any sequence of what senders and people do ends in the state the rules name."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
import pytest

from outbox_support import OUTBOX, created, emptied, shared_database
from outhaul.database.outbox_store import OutboxRow, OutboxStore
from outhaul.settings import DatabaseSettings

T = TypeVar("T")
LONG = 3600.0
STEPS = 250
EXPIRE = "UPDATE outbox SET available_at = (SELECT clock_timestamp()) WHERE status = 'pending'"


@dataclass
class Row:
    """What the model knows. ``due`` is the instant from which the row may be taken, None for one yet to come."""

    seq: int
    route: str
    due: int | None
    token: UUID | None = None
    attempts: int = 0
    parked: bool = False

    @property
    def is_held(self) -> bool:
        return self.token is not None and self.due is None and not self.parked


class OutboxModel:
    """Each deed does one thing to the database and to the model, and compares what came back.

    Deeds come at random, many on few rows: a row is claimed, lost, taken over, refused and found again all the time.
    """

    def __init__(self, dsn: str, seed: int) -> None:
        self.random = random.Random(seed)
        self.rows: dict[UUID, Row] = {}
        self.sent: set[UUID] = set()
        self.claimed: list[OutboxRow] = []
        self.now = 0
        self.done: list[str] = []
        self.loop = asyncio.new_event_loop()
        self.conn = psycopg.connect(dsn, autocommit=True)
        self.store = OutboxStore(DatabaseSettings.parse(dsn))
        self.wait(self.store.open())

    def close(self) -> None:
        self.wait(self.store.close())
        self.conn.close()
        self.loop.close()

    def step(self) -> None:
        deed = self.random.choice(DEEDS)
        self.done.append(deed.__name__)
        deed(self)
        self.compare()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def tick(self) -> int:
        self.now += 1
        return self.now

    def lease(self, rows: list[OutboxRow], expected: Iterable[UUID]) -> None:
        """What was claimed is what the model expects, under one new token, oldest first."""
        assert [row.message_id for row in rows] == sorted(expected, key=lambda i: self.rows[i].seq)
        assert len({row.lease_token for row in rows}) <= 1
        for row in rows:
            known = self.rows[row.message_id]
            known.token, known.due, known.parked = row.lease_token, None, False
            assert row.attempts == known.attempts
        self.claimed += rows

    def chosen(self) -> list[UUID]:
        """Some ids that are or were there, and a stranger's."""
        known = [*self.rows, *list(self.sent)[:3]]
        return [*self.random.sample(known, min(len(known), self.random.randint(0, 4))), uuid4()]

    def route(self) -> str:
        return self.random.choice("ab")

    def held_by(self, row: OutboxRow) -> Row | None:
        known = self.rows.get(row.message_id)
        return known if known is not None and known.token == row.lease_token and not known.parked else None

    def add(self) -> None:
        route = self.route()
        with self.conn.transaction():
            recorded = OUTBOX.add(self.conn, *(created(n, routing_key=route) for n in range(self.random.randint(1, 3))))
        for row in recorded:
            self.rows[row.message_id] = Row(row.seq, route, due=self.tick())

    def claim(self) -> None:
        limit = self.random.randint(0, 6)
        due = [(row.due, row.seq, i) for i, row in self.rows.items() if row.due is not None and not row.parked]
        self.lease(self.wait(self.store.claim(limit, LONG)), [i for _, _, i in sorted(due)[:limit]])

    def claim_route(self) -> None:
        route = self.route()
        free = {i for i, r in self.rows.items() if r.route == route and not r.parked and not r.is_held}
        self.lease(self.wait(self.store.claim_route("shop.events", route, 1000, LONG)), free)

    def claim_ids(self) -> None:
        ids = self.chosen()
        free = [i for i in ids if i in self.rows and not self.rows[i].is_held]
        for message_id in free:
            if self.rows[message_id].parked:
                self.rows[message_id].attempts = 0
        self.lease(self.wait(self.store.claim_ids(ids, LONG)), free)

    def confirm(self) -> None:
        ids = self.chosen()
        there = [i for i in ids if i in self.rows]
        assert self.wait(self.store.confirm(ids)) == len(there)
        for message_id in there:
            del self.rows[message_id]
        self.sent.update(there)

    def recently_claimed(self) -> list[OutboxRow]:
        """Claimed at some time, so that many a lease is lost; each row once."""
        recent = self.claimed[-12:]
        some = self.random.sample(recent, min(len(recent), self.random.randint(0, 4)))
        return list({row.message_id: row for row in some}.values())

    def release(self) -> None:
        rows, later = self.recently_claimed(), self.random.random() < 0.5
        held = [known for row in rows if (known := self.held_by(row)) is not None]
        delay = LONG if later else 0.0
        assert self.wait(self.store.release(rows, delay_seconds=delay, last_error="x")) == len(held)
        at = self.tick()
        for known in held:
            known.token, known.due = None, None if later else at

    def fail(self) -> None:
        for row in self.recently_claimed():
            self.fail_one(row, max_attempts=self.random.randint(1, 2))

    def fail_one(self, row: OutboxRow, *, max_attempts: int) -> None:
        known = self.held_by(row)
        answer = self.wait(
            self.store.fail(row, last_error="x", delay_seconds=0, max_attempts=max_attempts, reason="refused")
        )
        if known is None:
            assert answer is None
            return
        known.attempts += 1
        known.token, known.due, known.parked = None, self.tick(), known.attempts >= max_attempts
        assert answer == ("parked" if known.parked else "pending")

    def unpark(self) -> None:
        ids = self.chosen()
        parked = [i for i in ids if i in self.rows and self.rows[i].parked]
        assert set(self.wait(self.store.unpark(ids))) == set(parked)
        at = self.tick()
        for message_id in parked:
            known = self.rows[message_id]
            known.parked, known.attempts, known.due = False, 0, at

    def discard(self) -> None:
        ids = self.chosen()
        free = {i for i in ids if i in self.rows and not self.rows[i].is_held}
        gone = self.wait(self.store.discard(ids, reason="r", actor="a", run_id=str(uuid4())))
        assert {row.message_id for row in gone} == free
        for message_id in free:
            del self.rows[message_id]

    def wake_route(self) -> None:
        route, batch = self.route(), self.random.randint(1, 3)
        put_off = [
            r for r in self.rows.values() if r.route == route and not r.parked and r.token is None and r.due is None
        ]
        assert self.wait(self.store.wake_route("shop.events", route, batch=batch)) == len(put_off)
        if len(put_off) > batch:
            # In batches each has an instant of its own, by an order the model does not follow: make it one.
            self.expire()
        for row in put_off:
            row.due = self.tick() if len(put_off) <= batch else self.now

    def expire(self) -> None:
        """Every lease and every wait is over."""
        self.conn.execute(EXPIRE.encode())
        at = self.tick()
        for row in self.rows.values():
            if not row.parked:
                row.due = at

    def compare(self) -> None:
        """The database is as the model has it."""
        counts = self.wait(self.store.count(stuck_after_seconds=LONG))
        pending = [row for row in self.rows.values() if not row.parked]
        assert (counts.pending, counts.free, counts.leased, counts.parked) == (
            len(pending),
            sum(row.due is not None for row in pending),
            sum(row.is_held for row in pending),
            len(self.rows) - len(pending),
        )
        left = self.conn.execute("SELECT message_id, lease_token, attempts FROM outbox").fetchall()
        assert {row[0]: row[1:] for row in left} == {i: (r.token, r.attempts) for i, r in self.rows.items()}
        assert {row[0] for row in self.conn.execute("SELECT message_id FROM outbox_sent")} == self.sent


DEEDS: Sequence[Callable[[OutboxModel], None]] = (
    OutboxModel.add,
    OutboxModel.add,
    OutboxModel.claim,
    OutboxModel.claim,
    OutboxModel.claim_route,
    OutboxModel.claim_ids,
    OutboxModel.confirm,
    OutboxModel.release,
    OutboxModel.release,
    OutboxModel.fail,
    OutboxModel.unpark,
    OutboxModel.discard,
    OutboxModel.wake_route,
    OutboxModel.expire,
)


@pytest.fixture(scope="module")
def database(postgres_url: str) -> Iterator[str]:
    with shared_database(postgres_url, "outbox") as dsn:
        yield dsn


@pytest.mark.parametrize("seed", range(4))
def test_any_sequence_of_deeds_ends_in_the_state_the_rules_name(database: str, seed: int) -> None:
    model = OutboxModel(emptied(database), seed)
    try:
        for _ in range(STEPS):
            model.step()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, after {', '.join(model.done[-15:])}") from error
    finally:
        model.close()
    assert len(model.sent) > 10

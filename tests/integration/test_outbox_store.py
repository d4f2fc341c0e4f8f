"""What a sender does with rows. A row is handed to one sender at a time; a confirm is a fact, whoever holds the row."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg
import pytest

from outbox_support import OUTBOX, created, emptied, in_loop, query, record, shared_database
from outhaul import events, ids, message, outbox
from outhaul.database import outbox_queries, outbox_store
from outhaul.database.outbox_store import Counts, OutboxRow, OutboxStore
from outhaul.database.partitions import FORGOTTEN_BEFORE
from outhaul.errors import ConfigurationError, DatabaseUnreachable
from outhaul.ids import first_at
from outhaul.settings import DatabaseSettings
from support import apoll

LEASE = 60.0


@pytest.fixture(scope="module")
def database(postgres_url: str) -> Iterator[str]:
    with shared_database(postgres_url, "outbox") as dsn:
        yield dsn


@pytest.fixture
def dsn(database: str) -> str:
    return emptied(database)


def opened(dsn: str, **options: Any) -> OutboxStore:
    return OutboxStore(DatabaseSettings.parse(dsn), **options)


def seqs(rows: Sequence[OutboxRow]) -> list[int]:
    return [row.seq for row in rows]


def expire(dsn: str) -> None:
    """Every lease and every wait is over."""
    query(dsn, "UPDATE outbox SET available_at = clock_timestamp()")


def waits(dsn: str) -> list[float]:
    """Seconds until each row may be taken, by sequence."""
    return [
        float(row[0])
        for row in query(dsn, "SELECT extract(epoch FROM available_at - clock_timestamp()) FROM outbox ORDER BY seq")
    ]


def sent(dsn: str) -> list[UUID]:
    return [row[0] for row in query(dsn, "SELECT message_id FROM outbox_sent ORDER BY seq")]


def left(dsn: str) -> list[UUID]:
    return [row[0] for row in query(dsn, "SELECT message_id FROM outbox ORDER BY seq")]


@in_loop
async def test_a_claimed_row_carries_all_that_sending_needs(dsn: str) -> None:
    record(dsn, headers={"tenant": "north", "n": 3}, causation_id="cause", traceparent="00-trace")
    async with opened(dsn) as store:
        [row] = await store.claim(10, LEASE)
    [stored] = query(dsn, f"SELECT {outbox_queries.ROW_COLUMNS} FROM outbox")
    assert tuple(row) == stored
    assert row.payload == b'{"n":0}'
    assert row.headers == {"tenant": "north", "n": 3}
    event = events.decode(row.body())
    assert (event.id, event.sequence, event.subject, event.time) == (row.message_id, row.seq, "order-0", row.created_at)


@in_loop
async def test_the_same_row_gives_the_same_bytes_however_often_and_wherever_it_is_claimed(dsn: str) -> None:
    record(dsn)
    bodies = set()
    for zone in ("UTC", "Asia/Kathmandu", "America/St_Johns"):
        async with opened(f"{dsn}?options=-c%20timezone%3D{zone}") as store:
            [row] = await store.claim(1, LEASE)
            bodies.add(row.body())
        expire(dsn)
    assert len(bodies) == 1


@in_loop
async def test_a_claim_takes_the_oldest_rows_up_to_its_limit_in_order(dsn: str) -> None:
    recorded = record(dsn, 10)
    async with opened(dsn) as store:
        first, second, third = [await store.claim(4, LEASE) for _ in range(3)]
        assert await store.claim(4, LEASE) == []
    assert [row.message_id for row in (*first, *second, *third)] == recorded
    assert [len(rows) for rows in (first, second, third)] == [4, 4, 2]
    assert len({rows[0].lease_token for rows in (first, second, third)}) == 3
    assert all(LEASE - 10 < wait <= LEASE for wait in waits(dsn))


@in_loop
async def test_a_claim_is_committed_before_it_returns(dsn: str) -> None:
    record(dsn)
    async with opened(dsn) as store:
        [row] = await store.claim(1, LEASE)
        assert query(dsn, "SELECT lease_token FROM outbox") == [(row.lease_token,)]


@in_loop
async def test_a_row_is_free_again_when_its_lease_is_over(dsn: str) -> None:
    record(dsn)
    async with opened(dsn) as store, opened(dsn) as other:
        [mine] = await store.claim(1, 0.3)
        assert await other.claim(1, LEASE) == []

        async def taken_over() -> list[OutboxRow]:
            return await other.claim(1, LEASE)

        [theirs] = cast("list[OutboxRow]", await apoll(taken_over, seconds=5))
    assert theirs.message_id == mine.message_id
    assert theirs.lease_token != mine.lease_token


@in_loop
async def test_uncommitted_rows_are_not_seen_and_do_not_hold_up_others(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        OUTBOX.add(conn, created(1))
        [late] = record(dsn)
        async with opened(dsn) as store:
            assert [row.message_id for row in await store.claim(10, LEASE)] == [late]
            conn.commit()
            assert len(await store.claim(10, LEASE)) == 1


@in_loop
async def test_rows_another_transaction_has_locked_are_skipped(dsn: str) -> None:
    locked, free = record(dsn, 2)
    with psycopg.connect(dsn) as conn:
        conn.execute("SELECT FROM outbox WHERE message_id = %s FOR UPDATE", (locked,))
        async with opened(dsn) as store:
            assert [row.message_id for row in await store.claim(10, LEASE)] == [free]


@pytest.mark.parametrize("seed", range(3))
@in_loop
async def test_claimers_at_once_never_hold_the_same_row_and_lose_none(dsn: str, seed: int) -> None:
    """Each takes, gives back, loses and completes at random; a ledger knows who holds what."""
    recorded = set(record(dsn, 400))
    holders: dict[UUID, int] = {}
    completed: set[UUID] = set()

    async def one(worker: int) -> None:
        rng = random.Random(seed * 100 + worker)
        async with opened(dsn) as store:
            while len(completed) < len(recorded):
                limit = rng.randint(1, 40)
                rows = await store.claim(limit, LEASE)
                assert len(rows) <= limit
                for row in rows:
                    assert row.message_id not in holders
                    assert row.message_id not in completed
                    holders[row.message_id] = worker
                back = [row for row in rows if rng.random() < 0.4]
                done = [row.message_id for row in rows if row not in back]
                rng.shuffle(done)
                for message_id in (row.message_id for row in rows):
                    del holders[message_id]
                completed.update(done)
                if done:
                    assert await store.confirm(done) == len(done)
                if back:
                    assert await store.release(back, delay_seconds=0, last_error=None) == len(back)

    async with asyncio.timeout(60):
        await asyncio.gather(*(one(worker) for worker in range(8)))
    assert set(sent(dsn)) == recorded
    assert left(dsn) == []


@in_loop
async def test_claims_at_once_get_exactly_their_limit(dsn: str) -> None:
    record(dsn, 800)
    stores = [opened(dsn) for _ in range(8)]
    for store in stores:
        await store.open()
    claims = await asyncio.gather(*(store.claim(100, LEASE) for store in stores))
    for store in stores:
        await store.close()
    taken = [row.message_id for rows in claims for row in rows]
    assert len(taken) == len(set(taken))
    assert all(len(rows) <= 100 for rows in claims)
    # Those that skipped rows another had locked but not yet leased got all the same a full claim: there were enough.
    assert [len(rows) for rows in claims] == [100] * 8


@in_loop
async def test_a_confirm_moves_the_row_to_the_history(dsn: str) -> None:
    record(dsn, 3)
    async with opened(dsn) as store:
        rows = await store.claim(2, LEASE)
        assert await store.confirm(row.message_id for row in rows) == 2
    assert len(left(dsn)) == 1
    assert query(
        dsn,
        "SELECT message_id, seq, exchange, routing_key, type, aggregate_id, attempts, created_at, "
        "sent_at BETWEEN clock_timestamp() - interval '1 min' AND clock_timestamp() FROM outbox_sent ORDER BY seq",
    ) == [
        (r.message_id, r.seq, r.exchange, r.routing_key, r.type, r.aggregate_id, r.attempts, r.created_at, True)
        for r in rows
    ]


@in_loop
async def test_confirming_twice_is_harmless_and_so_are_strangers(dsn: str) -> None:
    recorded = record(dsn, 2)
    async with opened(dsn) as store:
        assert await store.confirm([*recorded, recorded[0], uuid4()]) == 2
        assert await store.confirm(recorded) == 0
        assert await store.confirm([]) == 0
    assert sent(dsn) == recorded


@in_loop
async def test_a_confirm_completes_the_row_whoever_holds_it(dsn: str) -> None:
    """Else confirms slower than the lease would make every sender lose, for ever."""
    record(dsn, 2)
    async with opened(dsn) as slow, opened(dsn) as other:
        late = await slow.claim(2, 0.0)
        taken_over = await other.claim(1, LEASE)
        assert await slow.confirm(row.message_id for row in late) == 2
        assert await other.release(taken_over, delay_seconds=0, last_error="nack") == 0
        assert await other.confirm(row.message_id for row in taken_over) == 0
    assert sent(dsn) == [row.message_id for row in late]


@in_loop
async def test_a_parked_row_that_is_confirmed_moves_too(dsn: str) -> None:
    [parked] = record(dsn)
    async with opened(dsn) as store:
        [row] = await store.claim(1, LEASE)
        await store.fail(row, last_error="x", delay_seconds=0, max_attempts=1, reason="refused")
        assert (await store.count()).parked == 1
        assert await store.confirm([parked]) == 1
    assert sent(dsn) == [parked]


@in_loop
async def test_a_row_that_is_in_the_history_already_leaves_the_outbox(dsn: str) -> None:
    """As after a restore that brought back rows."""
    [known] = record(dsn)
    query(
        dsn,
        "INSERT INTO outbox_sent (message_id, seq, exchange, routing_key, type, aggregate_id, attempts, created_at) "
        "SELECT message_id, seq, exchange, routing_key, type, aggregate_id, attempts, created_at FROM outbox",
    )
    async with opened(dsn) as store:
        await store.confirm([known])
    assert (left(dsn), sent(dsn)) == ([], [known])


@in_loop
async def test_marking_goes_on_with_a_history_partition_missing(dsn: str) -> None:
    recorded = record(dsn, 3)
    today = f"outbox_sent_p{datetime.fromtimestamp(ids.time_of(recorded[0]).timestamp(), UTC):%Y%m%d}"
    query(dsn, f"ALTER TABLE outbox_sent DETACH PARTITION {today}; ALTER TABLE {today} RENAME TO put_away")
    try:
        async with opened(dsn) as store:
            assert await store.confirm(recorded) == 3
        assert query(dsn, "SELECT DISTINCT tableoid::regclass::text FROM outbox_sent") == [("outbox_sent_default",)]
    finally:
        query(dsn, "TRUNCATE outbox_sent; DROP TABLE put_away; SELECT outhaul_make_partitions('outbox_sent', 7)")


@in_loop
async def test_senders_confirming_overlapping_sets_at_once_do_not_deadlock(dsn: str) -> None:
    rng = random.Random(5)
    async with opened(dsn) as one, opened(dsn) as other, opened(dsn) as third:
        for _ in range(40):
            rows = record(dsn, 60)
            claimed = await third.claim(60, LEASE)
            sets = [rng.sample(rows, rng.randint(2, 60)) for _ in range(2)]
            returned = rng.sample(claimed, 40)
            moved = await asyncio.gather(
                one.confirm(sets[0]),
                other.confirm(sets[1]),
                third.release(returned, delay_seconds=5, last_error="x"),
            )
            assert moved[0] + moved[1] == len({*sets[0], *sets[1]})
            query(dsn, "TRUNCATE outbox, outbox_sent")


@in_loop
async def test_a_release_gives_rows_back_for_later_without_spending_an_attempt(dsn: str) -> None:
    record(dsn, 3)
    async with opened(dsn) as store:
        rows = await store.claim(2, LEASE)
        assert await store.release(rows, delay_seconds=20, last_error="unroutable") == 2
        assert len(await store.claim(10, LEASE)) == 1
    assert (
        query(dsn, "SELECT lease_token, attempts, status, last_error FROM outbox ORDER BY seq LIMIT 2")
        == [(None, 0, "pending", "unroutable")] * 2
    )
    assert [15 < wait <= 20 for wait in waits(dsn)[:2]] == [True, True]


@in_loop
async def test_rows_of_several_claims_are_released_together(dsn: str) -> None:
    record(dsn, 4)
    async with opened(dsn) as store:
        rows = [*await store.claim(2, LEASE), *await store.claim(2, LEASE)]
        assert await store.release(rows, delay_seconds=0, last_error=None) == 4


@in_loop
async def test_rows_released_together_are_claimed_in_order_again(dsn: str) -> None:
    record(dsn, 50)
    async with opened(dsn) as store:
        rows = await store.claim(50, LEASE)
        await store.release(list(reversed(rows)), delay_seconds=0, last_error=None)
        assert seqs(await store.claim(20, LEASE)) == seqs(rows[:20])


@in_loop
async def test_release_and_fail_write_nothing_once_the_lease_is_lost(dsn: str) -> None:
    record(dsn)
    async with opened(dsn) as slow, opened(dsn) as other:
        [lost] = await slow.claim(1, 0.0)
        [held] = await other.claim(1, LEASE)
        assert await slow.release([lost], delay_seconds=0, last_error="lost") == 0
        refused = await slow.fail(lost, last_error="lost", delay_seconds=0, max_attempts=1, reason="refused")
        assert refused is None
    assert query(dsn, "SELECT lease_token, attempts, status, last_error FROM outbox") == [
        (held.lease_token, 0, "pending", None)
    ]


@in_loop
async def test_an_expired_lease_that_nobody_took_over_still_counts(dsn: str) -> None:
    record(dsn)
    async with opened(dsn) as store:
        rows = await store.claim(1, 0.0)
        assert await store.release(rows, delay_seconds=5, last_error="nack") == 1


@in_loop
async def test_a_refused_message_spends_attempts_and_is_parked_at_the_last(dsn: str) -> None:
    record(dsn)
    states = []
    async with opened(dsn) as store:
        for _ in range(3):
            [row] = await store.claim(1, LEASE)
            states.append(
                await store.fail(row, last_error="too large", delay_seconds=0, max_attempts=3, reason="refused")
            )
        assert await store.claim(1, LEASE) == []
        counts = await store.count()
    assert states == ["pending", "pending", "parked"]
    assert query(dsn, "SELECT attempts, status, park_reason, last_error, lease_token FROM outbox") == [
        (3, "parked", "refused", "too large", None)
    ]
    assert (counts.pending, counts.parked) == (0, 1)


@in_loop
async def test_a_failed_row_waits_its_delay(dsn: str) -> None:
    record(dsn)
    async with opened(dsn) as store:
        [row] = await store.claim(1, LEASE)
        await store.fail(row, last_error="x", delay_seconds=30, max_attempts=9, reason="refused")
        assert await store.claim(1, LEASE) == []
    assert 25 < waits(dsn)[0] <= 30


@pytest.mark.parametrize(
    ("text", "kept"), [("a\x00b", "a\ufffdb"), ("\ud800!", "?!"), ("x" * 5000, "x" * outbox_store.MOST_CHARACTERS)]
)
@in_loop
async def test_a_brokers_words_are_kept_as_far_as_the_database_can(dsn: str, text: str, kept: str) -> None:
    record(dsn)
    async with opened(dsn) as store:
        rows = await store.claim(1, LEASE)
        assert await store.release(rows, delay_seconds=0, last_error=text) == 1
        assert query(dsn, "SELECT last_error FROM outbox") == [(kept,)]
        [row] = await store.claim(1, LEASE)
        assert await store.fail(row, last_error=text, delay_seconds=0, max_attempts=1, reason=text) == "parked"
        assert query(dsn, "SELECT last_error, park_reason FROM outbox") == [(kept, kept)]
        await store.discard([row.message_id], reason=text, actor=text, run_id="r")
        await store.heartbeat(uuid4(), name="n", host="h", version="1", state=text)
        assert query(dsn, "SELECT state FROM senders") == [(kept,)]
        await store.start_run("s", kind="resend", actor=text, request={})
        await store.finish_run("s", state="failed", counts={}, detail=text)
    assert query(dsn, "SELECT actor, detail FROM runs") == [(kept, kept)] * 2


async def park(store: OutboxStore, count: int) -> list[UUID]:
    rows = await store.claim(count, LEASE)
    for row in rows:
        await store.fail(row, last_error="too large", delay_seconds=0, max_attempts=1, reason="refused")
    return [row.message_id for row in rows]


@in_loop
async def test_an_unparked_row_is_free_at_once_with_its_attempts_forgotten(dsn: str) -> None:
    record(dsn, 3)
    async with opened(dsn) as store:
        parked = await park(store, 2)
        [pending] = [i for i in left(dsn) if i not in parked]
        assert await store.unpark([*parked, pending, uuid4()]) == parked
        assert await store.unpark(parked) == []
        assert len(await store.claim(10, LEASE)) == 3
    assert query(dsn, "SELECT DISTINCT attempts, status, park_reason FROM outbox") == [(0, "pending", None)]


@in_loop
async def test_chosen_rows_are_claimed_whatever_their_wait_but_not_from_a_live_sender(dsn: str) -> None:
    parked_id, put_off, held, free, untouched = record(dsn, 5)
    async with opened(dsn) as store, opened(dsn) as sender:
        assert await park(store, 1) == [parked_id]
        await store.release(await store.claim(1, LEASE), delay_seconds=600, last_error="breaker")
        await sender.claim(1, LEASE)
        rows = await store.claim_ids([parked_id, put_off, held, free, uuid4()], LEASE)
        assert [row.message_id for row in rows] == [parked_id, put_off, free]
        assert [row.attempts for row in rows] == [0, 0, 0]
        assert [row.message_id for row in await sender.claim(10, LEASE)] == [untouched]
    assert query(dsn, "SELECT count(*) FROM outbox WHERE status = 'parked' OR park_reason IS NOT NULL") == [(0,)]


@in_loop
async def test_a_route_is_probed_with_its_own_rows_and_those_put_off_because_of_it(dsn: str) -> None:
    record(dsn, 2, routing_key="other")
    mine = record(dsn, 3, routing_key="broken")
    async with opened(dsn) as store:
        rows = await store.claim_route("shop.events", "broken", 2, LEASE)
        assert [row.message_id for row in rows] == mine[:2]
        await store.release(rows, delay_seconds=600, last_error="unroutable")
        [probe] = await store.claim_route("shop.events", "broken", 1, LEASE)
        assert probe.message_id == mine[2]
        again = await store.claim_route("shop.events", "broken", 10, LEASE)
        assert [row.message_id for row in again] == mine[:2]
        assert await store.claim_route("shop.events", "broken", 10, LEASE) == []
        assert await store.claim_route("other.events", "other", 10, LEASE) == []


@in_loop
async def test_waking_a_route_makes_its_rows_due_in_order_and_no_others(dsn: str) -> None:
    record(dsn, 2, routing_key="other")
    mine = record(dsn, 7, routing_key="broken")
    async with opened(dsn) as store:
        rows = await store.claim(10, LEASE)
        await store.release(rows, delay_seconds=600, last_error="unroutable")
        held = await store.claim_route("shop.events", "broken", 1, LEASE)
        assert await store.wake_route("shop.events", "broken", batch=2) == 6
        assert await store.wake_route("shop.events", "broken") == 0
        assert [row.message_id for row in await store.claim(10, LEASE)] == mine[1:]
    assert [row.message_id for row in held] == mine[:1]
    assert query(dsn, "SELECT DISTINCT routing_key, last_error FROM outbox ORDER BY 1, 2 NULLS FIRST") == [
        ("broken", None),
        ("broken", "unroutable"),
        ("other", "unroutable"),
    ]


@in_loop
async def test_a_discard_deletes_the_row_and_goes_on_record(dsn: str) -> None:
    record(dsn, 3)
    async with opened(dsn) as store:
        [parked] = await park(store, 1)
        [gone] = await store.discard([parked], reason="test order", actor="ann@shop", run_id="run-1")
    assert gone == (parked, "shop.order.created.v1", "order-0", "parked", "too large")
    assert parked not in left(dsn)
    assert sent(dsn) == []
    assert query(
        dsn, "SELECT run_id, kind, actor, state, request, counts, detail, finished_at >= started_at FROM runs"
    ) == [
        (
            "run-1",
            "discard",
            "ann@shop",
            "done",
            {"reason": "test order", "asked": [str(parked)], "discarded": [str(parked)]},
            {"discarded": 1},
            "test order",
            True,
        )
    ]


@in_loop
async def test_a_row_a_live_sender_holds_is_not_discarded(dsn: str) -> None:
    held, put_off, expired, free = record(dsn, 4)
    async with opened(dsn) as store:
        await store.claim(1, LEASE)
        await store.release(await store.claim(1, LEASE), delay_seconds=600, last_error="breaker")
        await store.claim(1, 0.0)
        gone = await store.discard([held, put_off, expired, free], reason="r", actor="a", run_id="run-1")
    assert sorted(row.message_id for row in gone) == sorted([put_off, expired, free])
    assert left(dsn) == [held]


@in_loop
async def test_a_discard_that_is_on_record_is_not_done_again(dsn: str) -> None:
    first, second = record(dsn, 2)
    async with opened(dsn) as store:
        await store.discard([first], reason="r", actor="a", run_id="run-1")
        assert await store.discard([first, second], reason="other", actor="b", run_id="run-1") == []
    assert left(dsn) == [second]
    assert query(dsn, "SELECT actor, counts, detail FROM runs") == [("a", {"discarded": 1}, "r")]


@pytest.mark.parametrize("reason", ["", "  \n"])
@in_loop
async def test_a_discard_without_a_reason_is_refused(dsn: str, reason: str) -> None:
    [row] = record(dsn)
    async with opened(dsn) as store:
        with pytest.raises(ConfigurationError, match="reason"):
            await store.discard([row], reason=reason, actor="a", run_id="r")
    assert left(dsn) == [row]


@in_loop
async def test_the_counts_of_an_empty_outbox_are_nothing(dsn: str) -> None:
    async with opened(dsn) as store:
        counts = await store.count()
    assert counts == Counts(0, 0, 0, 0, 0, None, counts.at)
    assert counts.oldest_age_seconds == 0


@in_loop
async def test_the_counts_tell_free_leased_stuck_and_parked_apart(dsn: str) -> None:
    record(dsn, 6)
    async with opened(dsn) as store:
        await park(store, 1)
        await store.release(await store.claim(1, LEASE), delay_seconds=600, last_error="put off")
        await store.claim(1, LEASE)
        await store.claim(1, 0.0)
        query(dsn, "UPDATE outbox SET created_at = clock_timestamp() - interval '90 s' WHERE aggregate_id <> 'order-5'")
        counts = await store.count(stuck_after_seconds=60)
    assert (counts.pending, counts.free, counts.leased, counts.stuck, counts.parked) == (5, 3, 1, 2, 1)
    assert 85 < counts.oldest_age_seconds < 120


@in_loop
async def test_ids_come_in_pages_by_time_and_of_parked_rows(dsn: str) -> None:
    record(dsn, 7)
    nobody = UUID(int=0)
    async with opened(dsn) as store:
        parked = await park(store, 5)
        everything = sorted(left(dsn))
        start, end = first_at(datetime.now(UTC) - timedelta(hours=1)), first_at(datetime.now(UTC) + timedelta(hours=1))
        pages: list[UUID] = []
        while page := await store.ids_created_between(start, end, after=pages[-1] if pages else nobody, limit=3):
            pages += page
        assert pages == everything
        assert await store.ids_created_between(start, everything[2], after=nobody) == everything[:2]
        assert await store.ids_created_between(everything[5], end, after=nobody) == everything[5:]
        assert await store.ids_parked(after=nobody, limit=3) == sorted(parked)[:3]
        assert await store.ids_parked(after=sorted(parked)[2]) == sorted(parked)[3:]


@in_loop
async def test_a_senders_heartbeat_shows_that_it_lives(dsn: str) -> None:
    sender, dead = uuid4(), uuid4()
    async with opened(dsn) as store:
        await store.heartbeat(sender, name="n", host="h", version="1", state="starting")
        await store.heartbeat(sender, name="n", host="h", version="1", state="sending")
        await store.heartbeat(dead, name="d", host="h", version="1", state="sending")
        query(dsn, "UPDATE senders SET seen_at = clock_timestamp() - interval '2 days' WHERE name = 'd'")
        live = query(dsn, outbox_queries.LIVE_SENDERS.replace("%(silent_seconds)s", "30"))
        assert [row[:5] for row in live] == [(sender, "n", "h", "1", "sending")]
        await store.forget_sender(sender)
    assert query(dsn, "SELECT count(*) FROM senders") == [(0,)]


@in_loop
async def test_a_run_is_put_on_record_once(dsn: str) -> None:
    async with opened(dsn) as store:
        assert await store.start_run("r", kind="resend", actor="a", request={"ids": 3})
        assert not await store.start_run("r", kind="resend", actor="b", request={})
        await store.finish_run("r", state="done", counts={"sent": 3}, detail=None)
    assert query(dsn, "SELECT kind, actor, request, state, counts, detail FROM runs") == [
        ("resend", "a", {"ids": 3}, "done", {"sent": 3}, None)
    ]


@in_loop
async def test_the_store_makes_and_drops_the_historys_partitions(dsn: str) -> None:
    async with opened(dsn) as store:
        assert await store.make_partitions() == 0
        assert await store.drop_partitions(30) == 0
    assert len(query(dsn, FORGOTTEN_BEFORE, "outbox_sent")) == 1


@in_loop
async def test_a_history_that_is_being_read_whole_is_no_outage(dsn: str) -> None:
    """Its partitions are made at another time; there is a week for it."""
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT count(*) FROM outbox_sent")
        async with opened(dsn) as store:
            assert await store.make_partitions(9) == 0
            assert store.is_open


def plan_nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from plan_nodes(child)


def explained(conn: psycopg.Connection[Any], limit: int, mode: str) -> dict[str, Any]:
    """The plan of one real claim, undone."""
    conn.execute(f"SET plan_cache_mode = {mode}".encode())
    text = outbox_queries.CLAIM.replace("%(limit)s", "$1").replace("%(token)s", "$2").replace("%(lease_seconds)s", "$3")
    with conn.transaction(force_rollback=True):
        conn.execute(b"PREPARE claim (bigint, uuid, float8) AS " + text.encode(), prepare=False)
        row = conn.execute(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE claim ({limit}, gen_random_uuid(), 60)".encode(),
            prepare=False,
        ).fetchone()
        conn.execute("DEALLOCATE claim", prepare=False)
    assert row is not None
    root: dict[str, Any] = row[0][0]["Plan"]
    return root


FILL = """
INSERT INTO outbox (exchange, routing_key, type, source, aggregate_id, payload, available_at, lease_token)
SELECT 'e', 'r', 't', 's', n::text, convert_to(repeat('x', 200), 'UTF8'),
       clock_timestamp() + make_interval(secs => {}), {} FROM generate_series(1, {}) AS n"""


def test_a_claim_reads_by_its_index_and_costs_the_same_beside_100_000_leased_rows(dsn: str) -> None:
    """Whether the planner knows the limit (a custom plan) or not (a generic one), and with old statistics or new.

    Buffers, not milliseconds: they do not depend on what else the machine does.
    """
    costs = {}
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("VACUUM ANALYZE outbox")
        for situation, fill, analyze in (
            ("alone", FILL.format(0, "NULL", 5000), True),
            ("beside leased rows", FILL.format(3600, "gen_random_uuid()", 100_000), False),
            ("beside leased rows, analyzed", None, True),
        ):
            if fill is not None:
                conn.execute(fill.encode())
            if analyze:
                conn.execute("VACUUM ANALYZE outbox")
            for mode in ("force_custom_plan", "force_generic_plan"):
                root = explained(conn, 500, mode)
                nodes = list(plan_nodes(root))
                scans = {node["Index Name"] for node in nodes if "Index Name" in node}
                assert scans == {"outbox_available", "outbox_pkey"}, (situation, mode)
                assert not {"Seq Scan", "Sort", "Hash Join"} & {node["Node Type"] for node in nodes}, (situation, mode)
                assert all(node["Actual Rows"] <= 500 for node in nodes), (situation, mode)
                costs[situation, mode] = root["Shared Hit Blocks"] + root["Shared Read Blocks"]
    assert max(costs.values()) <= 1.5 * min(costs.values()), costs


def test_the_hot_tables_are_vacuumed_by_count(dsn: str) -> None:
    [(options,)] = query(dsn, "SELECT reloptions FROM pg_class WHERE oid = 'outbox'::regclass")
    assert {"fillfactor=80", "autovacuum_vacuum_scale_factor=0", "autovacuum_vacuum_threshold=5000"} <= set(options)


@in_loop
async def test_this_machines_clock_is_asked_by_nobody(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be hours off."""

    class NoClock(datetime):
        @classmethod
        def now(cls, _zone: Any = None) -> Any:
            raise AssertionError("the application's clock was asked")

        utcnow = now
        today = now

    for module in (events, ids, message, outbox, outbox_store):
        monkeypatch.setattr(module, "datetime", NoClock, raising=False)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 6 * 3600)
    recorded = record(dsn, 3)
    async with opened(dsn) as store:
        rows = await store.claim(2, LEASE)
        await store.release(rows[:1], delay_seconds=0, last_error=None)
        await store.confirm([rows[1].message_id])
        assert seqs(await store.claim(5, LEASE)) == [rows[0].seq, rows[1].seq + 1]
        assert (await store.count()).oldest_age_seconds < 60
    assert sent(dsn) == [recorded[1]]
    assert abs(ids.time_of(recorded[0]).timestamp() - real()) < 60


@in_loop
async def test_a_database_that_is_not_there_is_named_without_its_password() -> None:
    store = opened("postgresql://someone:secret@127.0.0.1:1/shop")
    with pytest.raises(DatabaseUnreachable, match=r"127\.0\.0\.1:1/shop") as caught:
        await store.open()
    assert "secret" not in str(caught.value)
    assert not store.is_open
    with pytest.raises(DatabaseUnreachable, match="not connected"):
        await store.claim(1, LEASE)


@in_loop
async def test_a_store_whose_connection_was_ended_opens_again(dsn: str) -> None:
    record(dsn)
    async with opened(dsn) as store:
        query(
            dsn,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND datname = current_database()",
        )
        with pytest.raises(psycopg.OperationalError):
            await store.claim(1, LEASE)
        assert not store.is_open
        await store.open()
        assert len(await store.claim(1, LEASE)) == 1


@pytest.mark.parametrize(
    "change",
    [
        "created_at = 'infinity'",
        "created_at = '-infinity'",
        "created_at = '20000-01-01'",
        "created_at = '0044-03-15 BC'",
        "aggregate_id = repeat('a', 1000000)",
    ],
)
def test_a_row_that_would_fail_a_statement_over_many_is_refused_where_it_is_written(dsn: str, change: str) -> None:
    """Written by SQL of somebody's own: the claim or the marking of all rows beside it would fail, for ever."""
    record(dsn)
    with pytest.raises(psycopg.errors.CheckViolation):
        query(dsn, f"UPDATE outbox SET {change}")

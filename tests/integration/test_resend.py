from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
import pytest

from outbox_support import in_loop
from outhaul.alerts import Alerter
from outhaul.errors import ConfigurationError, DatabaseUnreachable
from outhaul.resend import ResendProgress, ResendRequest, ResendResult, resend_once, watch
from outhaul.sender import Sender
from outhaul.sending.sender_settings import SenderSettings
from support import BrokerUnderTest, apoll
from support_amqp import Amqp, through_port
from support_outbox import EXCHANGE, KEY, QUEUE, message, pending, record, rows, sent_ids
from support_proxy import Proxy
from webhook_support import webhook

QUICK = SenderSettings(poll_seconds=0.2, lease_seconds=20, confirm_timeout_seconds=5)
ALL = ResendRequest()


async def resend(dsn: str, broker: BrokerUnderTest, request: ResendRequest = ALL, **changes: Any) -> ResendResult:
    given: dict[str, Any] = {"dsn": dsn, "amqp_url": broker.amqp_url, "settings": QUICK, "actor": "a test"}
    return await resend_once(request, **(given | changes))


def declare(broker: BrokerUnderTest, *keys: str) -> None:
    with Amqp(broker) as amqp:
        amqp.exchange(EXCHANGE)
        amqp.queue(QUEUE, *((EXCHANGE, key) for key in keys or (KEY,)))


def park(dsn: str, *aggregates: int) -> list[UUID]:
    with psycopg.connect(dsn) as conn:
        ids = conn.execute(
            "UPDATE outbox SET status = 'parked', park_reason = 'refused', attempts = 8"
            " WHERE aggregate_id = ANY(%s) RETURNING message_id",
            ([str(each) for each in aggregates],),
        ).fetchall()
    return [row[0] for row in ids]


def rows_held(dsn: str) -> int:
    """Rows that nobody could take at once."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute(
            "SELECT count(*) FROM outbox WHERE lease_token IS NOT NULL OR available_at > clock_timestamp()"
        ).fetchone()
    return int(row[0]) if row else 0


def run_row(dsn: str, run_id: str) -> tuple[Any, ...]:
    with psycopg.connect(dsn) as conn:
        row = conn.execute(
            "SELECT kind, actor, request, state, counts, detail FROM runs WHERE run_id = %s", (run_id,)
        ).fetchone()
    assert row is not None
    return row


@in_loop
async def test_everything_free_is_sent_and_the_run_is_on_record(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    declare(broker)
    record(outbox_dsn, *[message(n) for n in range(1500)])
    told: list[ResendProgress] = []
    result = await resend(outbox_dsn, broker, run_id="run-1", on_progress=told.append)
    assert result.is_clean
    assert (result.progress.sent, pending(outbox_dsn)) == (1500, 0)
    assert told[-1].sent == 1500
    kind, actor, request, state, counts, _ = run_row(outbox_dsn, "run-1")
    assert (kind, actor, request, state) == ("resend", "a test", {"all": True}, "done")
    assert counts["sent"] == 1500


@in_loop
async def test_an_empty_outbox_ends_the_run_at_once(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    result = await resend(outbox_dsn, broker)
    assert result.is_clean
    assert result.progress == ResendProgress()


@in_loop
async def test_the_same_run_twice_is_done_once(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    declare(broker)
    record(outbox_dsn, message(1))
    assert (await resend(outbox_dsn, broker, run_id="once")).progress.sent == 1
    record(outbox_dsn, message(2))
    again = await resend(outbox_dsn, broker, run_id="once")
    assert again.done_before
    assert pending(outbox_dsn) == 1


@in_loop
async def test_chosen_ids_are_sent_and_no_others_parked_ones_included(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    declare(broker)
    recorded = record(outbox_dsn, *[message(n) for n in range(10)])
    park(outbox_dsn, 3)
    meant = tuple(recorded[n].message_id for n in (1, 3, 5))
    result = await resend(outbox_dsn, broker, ResendRequest(message_ids=meant))
    assert result.is_clean
    assert sorted(sent_ids(outbox_dsn)) == sorted(meant)
    assert pending(outbox_dsn) == 7


@in_loop
async def test_parked_rows_are_sent_and_no_others(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    declare(broker)
    record(outbox_dsn, *[message(n) for n in range(10)])
    parked = park(outbox_dsn, 2, 4, 6)
    result = await resend(outbox_dsn, broker, ResendRequest(parked=True))
    assert result.is_clean
    assert sorted(sent_ids(outbox_dsn)) == sorted(parked)


@in_loop
async def test_a_range_of_time_is_sent_and_nothing_outside_it(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    declare(broker)
    recorded = record(outbox_dsn, message(0)) + record(outbox_dsn, message(1)) + record(outbox_dsn, message(2))
    first, last = recorded[0].created_at, recorded[2].created_at
    outside = ResendRequest(created_between=(first - timedelta(hours=2), first - timedelta(hours=1)))
    assert (await resend(outbox_dsn, broker, outside)).progress.taken == 0
    inside = ResendRequest(created_between=(first - timedelta(seconds=1), last + timedelta(seconds=1)))
    assert (await resend(outbox_dsn, broker, inside)).progress.sent == 3


@in_loop
async def test_rows_a_live_sender_holds_are_left_to_it(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    declare(broker)
    [held] = record(outbox_dsn, message(1))
    with psycopg.connect(outbox_dsn) as conn:
        conn.execute(
            "UPDATE outbox SET lease_token = gen_random_uuid(), available_at = clock_timestamp() + interval '1 min'"
        )
    for request in (ALL, ResendRequest(message_ids=(held.message_id,))):
        assert (await resend(outbox_dsn, broker, request)).progress.taken == 0
    assert pending(outbox_dsn) == 1


@pytest.mark.parametrize("filtered", [False, True], ids=["all", "chosen"])
def test_a_run_ends_when_only_a_broken_route_remains_and_says_why(
    filtered: bool, outbox_dsn: str, broker: BrokerUnderTest
) -> None:
    async def run() -> None:
        declare(broker)
        lost = record(outbox_dsn, *[message(n, routing_key="order.lost") for n in range(30)])
        good = record(outbox_dsn, *[message(n) for n in range(30)])
        ids = tuple(each.message_id for each in lost + good)
        request = ResendRequest(message_ids=ids) if filtered else ALL
        result = await resend(outbox_dsn, broker, request, run_id="blocked")
        assert not result.is_clean
        assert [(r.routing_key, r.kind) for r in result.routes] == [("order.lost", "unroutable")]
        assert (result.progress.sent, pending(outbox_dsn)) == (30, 30)
        assert {row["attempts"] for row in rows(outbox_dsn)} == {0}
        _, _, _, state, _, detail = run_row(outbox_dsn, "blocked")
        assert state == "done"
        assert "NO_ROUTE" in detail
        # Nothing is put off once the run has ended: the next one takes it up at once.
        declare(broker, "order.lost")
        assert (await resend(outbox_dsn, broker)).progress.sent == 30

    asyncio.run(run())


@pytest.mark.parametrize("filtered", [False, True], ids=["all", "chosen"])
def test_a_limited_run_sends_that_many_rows_and_no_more(
    filtered: bool, outbox_dsn: str, broker: BrokerUnderTest
) -> None:
    async def run() -> None:
        declare(broker)
        recorded = record(outbox_dsn, *[message(n) for n in range(2500)])
        ids = tuple(each.message_id for each in recorded) if filtered else ()
        request = ResendRequest(message_ids=ids, limit=1100)
        result = await resend(outbox_dsn, broker, request, run_id="bounded")
        assert result.is_clean
        assert (result.progress.sent, result.progress.taken, pending(outbox_dsn)) == (1100, 1100, 1400)
        assert rows_held(outbox_dsn) == 0
        assert run_row(outbox_dsn, "bounded")[2]["limit"] == 1100
        assert (await resend(outbox_dsn, broker, request, run_id="bounded")).done_before
        assert pending(outbox_dsn) == 1400

    asyncio.run(run())


@in_loop
async def test_rows_that_cannot_be_sent_take_no_room_in_a_limited_run(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    declare(broker)
    record(outbox_dsn, *[message(n, routing_key="order.lost") for n in range(300)])
    record(outbox_dsn, *[message(n) for n in range(300)])
    result = await resend(outbox_dsn, broker, ResendRequest(limit=100))
    assert [route.routing_key for route in result.routes] == ["order.lost"]
    assert (result.progress.sent, pending(outbox_dsn)) == (100, 500)
    assert rows_held(outbox_dsn) == 0


@in_loop
async def test_a_limited_run_ends_when_a_route_is_mended_under_it(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    declare(broker)
    record(outbox_dsn, *[message(n, routing_key="order.late") for n in range(400)])
    record(outbox_dsn, *[message(n) for n in range(4000)])
    slow = replace(QUICK, window_messages=5)
    running = asyncio.create_task(resend(outbox_dsn, broker, ResendRequest(limit=3000), settings=slow))
    await apoll(lambda: any(row["last_error"] for row in rows(outbox_dsn, "last_error")))
    declare(broker, "order.late")
    result = await asyncio.wait_for(running, 60)
    assert result.is_clean
    assert (result.progress.sent, pending(outbox_dsn)) == (3000, 1400)
    assert rows_held(outbox_dsn) == 0


@in_loop
async def test_a_run_started_again_keeps_to_its_limit_over_both_attempts(
    outbox_dsn: str, broker: BrokerUnderTest
) -> None:
    declare(broker)
    record(outbox_dsn, *[message(n) for n in range(3000)])
    request, stop = ResendRequest(limit=2000), asyncio.Event()
    slow = replace(QUICK, window_messages=5, claim_rows=50)
    running = asyncio.create_task(resend(outbox_dsn, broker, request, run_id="again", settings=slow, stop=stop))
    await apoll(lambda: pending(outbox_dsn) < 3000)
    stop.set()
    first = await running
    assert "stopped" in first.outage
    assert 0 < first.progress.sent < 2000
    again = await resend(outbox_dsn, broker, request, run_id="again")
    assert (again.progress.sent, pending(outbox_dsn)) == (2000, 1000)
    assert run_row(outbox_dsn, "again")[4]["sent"] == 2000


@in_loop
async def test_a_connection_lost_on_the_way_leaves_no_chosen_row_behind(
    outbox_dsn: str, broker: BrokerUnderTest
) -> None:
    declare(broker)
    recorded = record(outbox_dsn, *[message(n) for n in range(4000)])
    request = ResendRequest(message_ids=tuple(each.message_id for each in recorded))
    parts = urlsplit(broker.amqp_url)
    with Proxy(parts.hostname or "", parts.port or 0) as proxy:
        running = asyncio.create_task(
            resend(
                outbox_dsn,
                broker,
                request,
                amqp_url=through_port(broker.amqp_url, proxy.port),
                settings=SenderSettings(window_messages=10),
            )
        )
        for _ in range(3):
            before = len(sent_ids(outbox_dsn))
            await apoll(lambda before=before: len(sent_ids(outbox_dsn)) > before)  # type: ignore[misc]
            await asyncio.to_thread(proxy.reset)
        result = await running
    assert result.is_clean
    assert (result.progress.sent, pending(outbox_dsn)) == (4000, 0)


@in_loop
async def test_a_broker_that_stays_away_fails_the_run_which_may_be_started_again(
    outbox_dsn: str, broker: BrokerUnderTest
) -> None:
    declare(broker)
    record(outbox_dsn, message(1))
    result = await resend(
        outbox_dsn, broker, run_id="away", amqp_url="amqp://guest:guest@127.0.0.1:1/%2F", patience_seconds=0.5
    )
    assert "connection refused" in result.outage
    assert run_row(outbox_dsn, "away")[3] == "failed"
    assert (await resend(outbox_dsn, broker, run_id="away")).progress.sent == 1
    assert run_row(outbox_dsn, "away")[3] == "done"


@in_loop
async def test_a_resend_beside_a_live_sender_loses_nothing(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    declare(broker)
    recorded = record(outbox_dsn, *[message(n) for n in range(3000)])
    async with Sender(dsn=outbox_dsn, amqp_url=broker.amqp_url, settings=QUICK):
        await resend(outbox_dsn, broker)
        await apoll(lambda: pending(outbox_dsn) == 0)
    with Amqp(broker) as amqp:
        taken = amqp.take(QUEUE, amqp.depth(QUEUE))
    assert {p.message_id for p, _ in taken} == {str(each.message_id) for each in recorded}


@in_loop
async def test_a_watch_sends_until_it_is_stopped(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    declare(broker)
    stop = asyncio.Event()
    running = asyncio.create_task(watch(dsn=outbox_dsn, amqp_url=broker.amqp_url, stop=stop, settings=QUICK))
    record(outbox_dsn, message(1))
    await apoll(lambda: pending(outbox_dsn) == 0)
    record(outbox_dsn, message(2))
    await apoll(lambda: pending(outbox_dsn) == 0)
    stop.set()
    await asyncio.wait_for(running, 10)


@in_loop
async def test_a_database_that_cannot_be_reached_is_named(broker: BrokerUnderTest) -> None:
    with pytest.raises(DatabaseUnreachable, match=r"127\.0\.0\.1:1/nothing"):
        await resend("postgresql://nobody:secret@127.0.0.1:1/nothing", broker)


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    "bad",
    [
        {"message_ids": (UUID(int=1),), "parked": True},
        {"limit": 0},
        {"created_between": (NOW, NOW)},
        {"created_between": (NOW.replace(tzinfo=None), NOW.replace(tzinfo=None))},
    ],
    ids=["two filters", "limit of none", "empty range", "no zone"],
)
def test_a_request_that_could_mean_two_things_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        ResendRequest(**bad)


@in_loop
async def test_a_row_parked_by_a_run_is_told_to_people(outbox_dsn: str, broker: BrokerUnderTest) -> None:
    declare(broker)
    record(outbox_dsn, message(1), message(2))
    with psycopg.connect(outbox_dsn) as conn:
        # The broker closes the channel (406) over a BCC header that is no list: it routes by it.
        conn.execute("""UPDATE outbox SET headers = '{"BCC": "not a list"}' WHERE aggregate_id = '1'""")
    with webhook() as told:
        alerter = Alerter(told.url, group_wait_seconds=0.05)
        try:
            settings = replace(QUICK, max_attempts=1)
            result = await resend(outbox_dsn, broker, settings=settings, alerter=alerter)
            assert (result.progress.sent, result.progress.parked) == (1, 1)
            await apoll(lambda: told.names() == {"OuthaulMessageParked"})
        finally:
            await asyncio.to_thread(alerter.close)

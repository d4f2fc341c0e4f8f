from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest

from conftest import MakeDatabase
from outbox_support import in_loop, query
from outhaul.tools.findings import Finding, Level
from outhaul_operator.adapters.postgres import PostgresDatabases
from outhaul_operator.plan import Tend
from outhaul_operator.snapshot import InboxDatabase, OutboxDatabase, Trouble, WaitingRoute
from support import apoll
from support_amqp import through_port
from support_outbox import EXCHANGE, KEY, message, record
from support_pgbouncer import SERVER_CONNECTIONS, pooled
from support_proxy import Proxy

SECRET = "s3cret-w0rd"


@asynccontextmanager
async def databases(seconds: float = 5.0, **more: float) -> AsyncIterator[PostgresDatabases]:
    opened = PostgresDatabases(timeout_seconds=seconds, **more)
    try:
        yield opened
    finally:
        await opened.close()


async def outbox(url: str, on: PostgresDatabases | None = None, *, run_ids: tuple[str, ...] = ()) -> OutboxDatabase:
    async with databases() as one:
        seen = await (on or one).look_at_outbox(url, stuck_after_seconds=60, run_ids=run_ids)
    assert isinstance(seen, OutboxDatabase), seen
    return seen


async def trouble(url: str, *, seconds: float = 5.0) -> Trouble:
    async with databases(seconds) as one:
        seen = await one.look_at_outbox(url, stuck_after_seconds=60, run_ids=())
    assert isinstance(seen, Trouble), seen
    assert SECRET not in repr(seen)
    return seen


def changed(url: str, **parts: str) -> str:
    """The URL with another user, password, host, port, path or query."""
    found = urlsplit(url)
    user, password = parts.pop("user", found.username), parts.pop("password", found.password)
    host, port = parts.pop("host", found.hostname), parts.pop("port", str(found.port))
    return urlunsplit(found._replace(netloc=f"{user}:{password}@{host}:{port}", **parts))


def texts(findings: tuple[Finding, ...], level: Level) -> str:
    return "\n".join(each.text for each in findings if each.level is level)


@in_loop
async def test_a_look_counts_what_waits_and_tells_who_sends(outbox_dsn: str) -> None:
    record(outbox_dsn, *[message(n) for n in range(5)])
    query(outbox_dsn, "UPDATE outbox SET created_at = clock_timestamp() - interval '5 min' WHERE aggregate_id < '3'")
    record(outbox_dsn, *[message(n, routing_key="order.lost") for n in range(7, 9)])
    query(outbox_dsn, "UPDATE outbox SET last_error = 'NO_ROUTE' WHERE routing_key = 'order.lost'")
    record(outbox_dsn, message(9))
    query(outbox_dsn, "UPDATE outbox SET status = 'parked', park_reason = 'refused' WHERE aggregate_id = '9'")
    query(
        outbox_dsn,
        "INSERT INTO senders (sender_id, name, host, version, state) VALUES (%s, 'order', 'pod-1', '1', 'connected')",
        uuid4(),
    )
    query(outbox_dsn, "INSERT INTO runs (run_id, kind, actor, request) VALUES ('outbox-1', 'resend', 'a', '{}')")
    seen = await outbox(outbox_dsn, run_ids=("outbox-1", "outbox-2"))
    counts = seen.counts
    assert (counts.pending, counts.free, counts.stuck, counts.parked) == (7, 7, 3, 1)
    assert [sender.name for sender in seen.senders] == ["order"]
    assert seen.routes == (
        WaitingRoute(EXCHANGE, KEY, 5, 3, parked=1),
        WaitingRoute(EXCHANGE, "order.lost", 2, 0, "NO_ROUTE"),
    )
    assert seen.parked_reasons == (("refused", 1),)
    assert {run_id: run.state for run_id, run in seen.runs.items()} == {"outbox-1": "running"}


@in_loop
async def test_an_idle_outbox_is_seen_the_same_at_every_look(outbox_dsn: str) -> None:
    async with databases() as one:
        first, second = await outbox(outbox_dsn, one), await outbox(outbox_dsn, one)
    assert (first.routes, first.findings) == (second.routes, second.findings)
    assert (first.counts.pending, first.counts.oldest_at) == (0, None)
    assert not [finding for finding in first.findings if finding.level is Level.PROBLEM]


@in_loop
async def test_a_backlog_too_large_to_count_is_counted_as_far_as_its_first_rows(outbox_dsn: str) -> None:
    query(
        outbox_dsn,
        "INSERT INTO outbox (exchange, routing_key, type, source, aggregate_id, payload, created_at)"
        " SELECT 'shop.events', 'order.created', 't', 's', n::text, '{}', clock_timestamp() - interval '1 hour'"
        " FROM generate_series(1, 150000) AS n",
    )
    async with databases(20, full_count_seconds=0.001) as one:
        seen = await outbox(outbox_dsn, one)
    assert (seen.counts.pending, seen.counts.stuck) == (100_000, 100_000)
    assert seen.counts.oldest_at is not None
    assert [(route.rows, route.stuck) for route in seen.routes] == [(100_000, 100_000)]
    async with databases(20) as one:
        assert (await outbox(outbox_dsn, one)).counts.pending == 150_000


@in_loop
async def test_an_inbox_tells_what_fails(inbox_dsn: str) -> None:
    query(inbox_dsn, "INSERT INTO deliveries (consumer, message_id, failed) VALUES ('waybill', %s, 2)", uuid4())
    query(inbox_dsn, "INSERT INTO deliveries (consumer, message_id, failed) VALUES ('other', %s, 2)", uuid4())
    query(inbox_dsn, "INSERT INTO runs (run_id, kind, actor, request) VALUES ('r', 'dlq-redrive', 'a', '{}')")
    async with databases() as one:
        seen = await one.look_at_inbox(inbox_dsn, consumer="waybill", run_ids=("r",))
    assert isinstance(seen, InboxDatabase)
    assert (seen.failing, list(seen.runs)) == (1, ["r"])
    assert abs((seen.at - datetime.now(UTC)).total_seconds()) < 60


@pytest.mark.parametrize(
    ("url", "reason", "words"),
    [
        ({"password": SECRET}, "CredentialsRefused", "password authentication failed.*check user and password"),
        ({"path": "/nowhere"}, "DatabaseMissing", "nowhere.*create it"),
        ({"path": "/postgres"}, "SchemaMissing", "outhaul schema apply"),
        ({"port": "1"}, "Unreachable", "127.0.0.1:1.*connection refused"),
        ({"host": "no-such-host.invalid"}, "Unreachable", "host name is unknown"),
        ({"query": "sslmode=require"}, "Unreachable", "TLS failed.*sslmode"),
    ],
)
def test_what_keeps_a_database_from_being_seen_is_told_with_its_remedy(
    url: dict[str, str], reason: str, words: str, outbox_dsn: str
) -> None:
    seen = asyncio.run(trouble(changed(outbox_dsn, **({"password": SECRET} | url if "port" in url else url))))
    assert seen.reason == reason
    assert re.search(words, seen.message), seen.message


@pytest.mark.parametrize(
    "url",
    [
        "",
        SECRET,
        f"postgresql://u:{SECRET}@h:99999999/d",
        f"postgresql://u:{SECRET}@h/d?colour=blue",
        f"postgresql://u:{SECRET}@h/d?passfile=/var/run/secrets/kubernetes.io/serviceaccount/token",
        f"host=h password={SECRET} passfile=/etc/hostname",
        f"postgresql://u:{SECRET}@h/d?password_file=/etc/hostname",
        f"postgresql://u:{SECRET}@h/d?sslkeylogfile=/tmp/keys",
    ],
)
def test_an_address_that_cannot_be_used_is_told_without_being_shown(url: str) -> None:
    seen = asyncio.run(trouble(url))
    assert seen.reason == "SecretInvalid"


@contextmanager
def role(url: str, *statements: str) -> Iterator[str]:
    """The URL for a new role, after these statements ({role} in them is its name)."""
    name = f"test_{uuid4().hex[:12]}"
    query(url, f"CREATE ROLE {name} LOGIN PASSWORD '{SECRET}'")
    try:
        for statement in statements:
            query(url, statement.format(role=name))
        yield changed(url, user=name, password=SECRET)
    finally:
        query(url, f"DROP OWNED BY {name}")
        query(url, f"DROP ROLE {name}")


def test_a_role_that_may_not_read_is_told_what_it_lacks(outbox_dsn: str) -> None:
    with role(outbox_dsn) as url:
        seen = asyncio.run(trouble(url))
    assert seen.reason == "PermissionDenied"
    assert "permission denied for table outbox" in seen.message


def test_a_role_without_a_connection_left_is_told_so(outbox_dsn: str) -> None:
    with role(outbox_dsn, "ALTER ROLE {role} CONNECTION LIMIT 0") as url:
        seen = asyncio.run(trouble(url))
    assert seen.reason == "TooManyConnections"


@in_loop
async def test_a_database_that_becomes_read_only_and_writable_again_is_seen_at_the_next_look(outbox_dsn: str) -> None:
    name = urlsplit(outbox_dsn).path[1:]
    async with databases() as one:
        assert "nothing can be written" not in texts((await outbox(outbox_dsn, one)).findings, Level.PROBLEM)
        query(outbox_dsn, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with databases() as one:
        assert "nothing can be written" in texts((await outbox(outbox_dsn, one)).findings, Level.PROBLEM)
        query(
            outbox_dsn + "?options=-c%20default_transaction_read_only%3Doff",
            f"ALTER DATABASE {name} RESET default_transaction_read_only",
        )
        # A session keeps what it began with.
        query(
            outbox_dsn,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        assert "nothing can be written" not in texts((await outbox(outbox_dsn, one)).findings, Level.PROBLEM)


def test_what_slows_a_database_down_is_named(make_database: MakeDatabase) -> None:
    dsn = make_database(("outbox",))
    query(dsn, "DELETE FROM outhaul_schema WHERE component = 'outbox'")
    seen = asyncio.run(outbox(dsn))
    assert "lacks version 1" in texts(seen.findings, Level.PROBLEM)


def half_open_look(dsn: str, *, kept: bool) -> tuple[Trouble, float]:
    """A look over a link that swallows everything: at the login, or on a connection kept from an earlier look."""
    parts = urlsplit(dsn)

    async def run(proxy: Proxy) -> tuple[Trouble, float]:
        async with databases(1.0) as one:
            url = through_port(dsn, proxy.port)
            if kept:
                assert isinstance(await one.look_at_outbox(url, stuck_after_seconds=60, run_ids=()), OutboxDatabase)
            await asyncio.to_thread(proxy.blackhole)
            began = time.monotonic()
            seen = await one.look_at_outbox(url, stuck_after_seconds=60, run_ids=())
            took = time.monotonic() - began
            assert isinstance(seen, Trouble)
            return seen, took

    with Proxy(parts.hostname or "", parts.port or 0) as proxy:
        return asyncio.run(run(proxy))


@pytest.mark.parametrize("kept", [False, True], ids=["at the login", "on a kept connection"])
def test_a_half_open_link_costs_a_look_its_deadline_and_no_more(kept: bool, outbox_dsn: str) -> None:
    seen, took = half_open_look(outbox_dsn, kept=kept)
    assert seen.reason == "TimedOut"
    assert "no answer within 1 s" in seen.message
    assert took < 2.5


@in_loop
async def test_a_lock_on_the_outbox_costs_a_look_its_deadline_and_no_more(outbox_dsn: str) -> None:
    async with databases(1.0) as one:
        with psycopg.connect(outbox_dsn) as lock:
            lock.execute("LOCK TABLE outbox")
            began = time.monotonic()
            seen = await one.look_at_outbox(outbox_dsn, stuck_after_seconds=60, run_ids=())
            assert time.monotonic() - began < 2.5
        assert isinstance(seen, Trouble)
        assert seen.reason == "TimedOut"
        assert isinstance(await one.look_at_outbox(outbox_dsn, stuck_after_seconds=60, run_ids=()), OutboxDatabase)


def sessions(dsn: str) -> int:
    [(count,)] = query(
        dsn,
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'outhaul operator'"
        " AND datname = current_database()",
    )
    return int(count)


@in_loop
async def test_one_connection_serves_many_looks_and_is_replaced_when_it_ends(outbox_dsn: str) -> None:
    async with databases() as one:
        for _ in range(3):
            await outbox(outbox_dsn, one)
        assert sessions(outbox_dsn) == 1
        query(
            outbox_dsn,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        await outbox(outbox_dsn, one)
        assert sessions(outbox_dsn) == 1
    await apoll(lambda: sessions(outbox_dsn) == 0)


@pytest.mark.needs("pgbouncer")
def test_looks_through_a_pooler_leave_nothing_behind_for_its_other_clients(
    outbox_dsn: str, servers_folder: Path
) -> None:
    record(outbox_dsn, message(1))

    async def run(url: str) -> None:
        async with databases(7.0) as one:
            for _ in range(10):
                assert (await outbox(url, one)).counts.pending == 1
            assert await one.tend_history(url, Tend(component="outbox", keep_days=30)) is None

    with pooled(outbox_dsn, servers_folder) as url:
        asyncio.run(run(url))
        for _ in range(SERVER_CONNECTIONS):
            assert query(url, "SHOW statement_timeout") == [("0",)]


@in_loop
async def test_fifty_dead_hosts_do_not_delay_the_living(outbox_dsn: str) -> None:
    with Proxy("127.0.0.1", 1) as proxy:
        proxy.blackhole()
        dead = [f"postgresql://u:p@127.0.0.1:{proxy.port}/d{n}" for n in range(50)]
        async with databases(3.0) as one:
            looks = [asyncio.create_task(one.look_at_outbox(url, stuck_after_seconds=60, run_ids=())) for url in dead]
            began = time.monotonic()
            await outbox(outbox_dsn, one)
            assert time.monotonic() - began < 2
            for seen in await asyncio.gather(*looks):
                assert isinstance(seen, Trouble)


def partition_days(dsn: str) -> list[int]:
    """The days of the history's partitions, from today on."""
    return [
        day
        for (day,) in query(
            dsn,
            "SELECT to_date(right(c.relname, 8), 'YYYYMMDD') - (clock_timestamp() AT TIME ZONE 'UTC')::date"
            " FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = 'outbox_sent'::regclass AND c.relname ~ '_p[0-9]{8}$' ORDER BY 1",
        )
    ]


@in_loop
async def test_history_is_made_ahead_and_dropped_and_no_unsent_row_with_it(outbox_dsn: str) -> None:
    old = "0190a1b2-7c4d-7e10-9f00-0123456789ab"
    query(
        outbox_dsn,
        "CREATE TABLE outbox_sent_p20240711 PARTITION OF outbox_sent FOR VALUES"
        " FROM (outhaul_first_id('2024-07-11')) TO (outhaul_first_id('2024-07-12'))",
    )
    query(
        outbox_dsn,
        "INSERT INTO outbox_sent (message_id, seq, exchange, routing_key, type, aggregate_id, attempts,"
        " created_at) VALUES (%s, 1, 'e', 'k', 't', '1', 0, '2024-07-11')",
        old,
    )
    for name in [
        name
        for (name,) in query(
            outbox_dsn, "SELECT relname FROM pg_class WHERE relname ~ '^outbox_sent_p20[0-9]{6}$' AND relkind = 'r'"
        )
        if name != "outbox_sent_p20240711"
    ][-3:]:
        query(outbox_dsn, f"DROP TABLE {name}")
    record(outbox_dsn, message(1))
    query(outbox_dsn, "UPDATE outbox SET message_id = %s, created_at = '2024-07-11'", old)
    async with databases() as one:
        assert await one.tend_history(outbox_dsn, Tend(component="outbox", keep_days=30)) is None
    days = partition_days(outbox_dsn)
    assert (min(days), max(days)) == (-1, 7)
    assert query(outbox_dsn, "SELECT count(*) FROM outbox_sent") == [(0,)]
    assert query(outbox_dsn, "SELECT count(*) FROM outbox") == [(1,)]


@in_loop
async def test_what_was_pruned_of_the_default_partition_stays_so_when_the_rest_takes_too_long(outbox_dsn: str) -> None:
    """Each day in a transaction of its own: else a backlog that takes too long at once is never pruned at all."""
    query(
        outbox_dsn,
        "INSERT INTO outbox_sent (message_id, seq, exchange, routing_key, type, aggregate_id, attempts, created_at)"
        " SELECT (left(outhaul_first_id(('2024-07-10'::date + n))::text, 35) || '1')::uuid, n, 'e', 'k', 't', '1', 0,"
        " '2024-07-10'::date + n FROM generate_series(1, 3) AS n",
    )
    with psycopg.connect(outbox_dsn) as conn:
        conn.execute("SELECT FROM outbox_sent_default WHERE seq = 3 FOR UPDATE")
        async with databases(0.5) as one:
            seen = await one.tend_history(outbox_dsn, Tend(component="outbox", keep_days=30))
        assert isinstance(seen, Trouble)
        assert query(outbox_dsn, "SELECT seq FROM outbox_sent") == [(3,)]
    async with databases() as one:
        assert await one.tend_history(outbox_dsn, Tend(component="outbox", keep_days=30)) is None
    assert query(outbox_dsn, "SELECT count(*) FROM outbox_sent") == [(0,)]


def test_history_that_may_not_be_tended_is_told(outbox_dsn: str) -> None:
    async def tend(url: str) -> Trouble | None:
        async with databases() as one:
            return await one.tend_history(url, Tend(component="outbox", keep_days=30))

    with role(outbox_dsn) as url:
        seen = asyncio.run(tend(url))
    assert seen is not None
    assert seen.reason == "PermissionDenied"
    assert "outhaul_make_partitions" in seen.message

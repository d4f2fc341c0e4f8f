"""What the operator sees of databases, and the little it does there: one bounded look each, by the SDK's statements.

Counting is done at every look. Whether the database is fit (schema, partitions, what holds back vacuum) is examined
less often, since it changes slowly; at once where it has become read-only or writable.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, LiteralString, NamedTuple

import psycopg
from psycopg.rows import class_row

from outhaul.database import outbox_queries, partitions, runs
from outhaul.database.outbox_store import Counts
from outhaul.database.runs import Run
from outhaul.errors import OuthaulError
from outhaul.settings import DatabaseSettings
from outhaul.tools import database_health, status
from outhaul.tools.findings import Finding
from outhaul_operator import troubles
from outhaul_operator.adapters.database_links import Connection, DatabaseLinks, cut, database_settings
from outhaul_operator.plan import Tend
from outhaul_operator.snapshot import InboxDatabase, OutboxDatabase, Trouble, WaitingRoute

MOST_ROUTES: Final = 100
EXAMINE_SECONDS: Final = 300.0
EXAMINE_AGAIN_SECONDS: Final = 60.0
"""Where somebody has to act: so long after it was mended at most, it is seen to be."""
_FORGET_SECONDS: Final = 7200.0

FULL_COUNT_SHARE: Final = 0.2
"""Of a look's time, for a count of every row: what takes longer would be a burden at every look."""
MOST_COUNTED: Final = 100_000
TEND_LOOKS: Final = 4.0
"""Tending may take so many times as long as a look: once an hour, and a day's rows may be many."""
LARGE_SECONDS: Final = 600.0
"""So long after a full count took too long, it is tried again."""


class _Queries(NamedTuple):
    counts: LiteralString
    routes: LiteralString
    parked_reasons: LiteralString


_FULL: Final = _Queries(outbox_queries.COUNT, outbox_queries.WAITING_ROUTES, outbox_queries.PARKED_REASONS)
_FIRST: Final = _Queries(
    outbox_queries.COUNT_FIRST, outbox_queries.WAITING_ROUTES_FIRST, outbox_queries.PARKED_REASONS_FIRST
)

# Bounds every statement of the transaction; a setting of the session would reach other clients through a pooler.
_BEGIN: Final[LiteralString] = """
SELECT set_config('statement_timeout', %s, true),
       pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'"""
# How many days ago, by its id, the oldest row of the history was recorded that found no partition of its day.
_DAYS_IN_THE_NET: Final[LiteralString] = """
SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date
       - (to_timestamp(('x' || left(replace(message_id::text, '-', ''), 12))::bit(48)::bigint / 1000.0)
          AT TIME ZONE 'UTC')::date
FROM outbox_sent_default ORDER BY message_id LIMIT 1"""
_CLOCK: Final[LiteralString] = "SELECT clock_timestamp()"
_log = logging.getLogger(__name__)
_HISTORY: Final = {"outbox": "outbox_sent", "inbox": "inbox"}


@dataclass(frozen=True, slots=True)
class _Examined:
    findings: tuple[Finding, ...]
    at: float
    read_only: bool

    def is_due(self, now: float, *, read_only: bool) -> bool:
        needs_somebody = any(finding.needs_somebody for finding in self.findings)
        seconds = EXAMINE_AGAIN_SECONDS if needs_somebody else EXAMINE_SECONDS
        return now - self.at >= seconds or read_only != self.read_only


class PostgresDatabases:
    """`outhaul_operator.ports.Databases` over psycopg. Every look ends within ``timeout_seconds``, tending within four.

    ``full_count_seconds``: a backlog that takes longer to count is counted as far as its first 100,000 rows.
    """

    def __init__(self, *, timeout_seconds: float, full_count_seconds: float | None = None) -> None:
        self._timeout_seconds = timeout_seconds
        self._full_count_seconds = full_count_seconds or timeout_seconds * FULL_COUNT_SHARE
        self._links = DatabaseLinks(timeout_seconds=timeout_seconds)
        self._tend_seconds = TEND_LOOKS * timeout_seconds
        self._tending = DatabaseLinks(timeout_seconds=self._tend_seconds, kept_a_server=0)
        self._examined: dict[tuple[str, str], _Examined] = {}
        self._large: dict[str, float] = {}
        # A database is examined only right after it has answered, so threads are rarely held up, and never for long.
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="examine a database")

    async def close(self) -> None:
        """Close what is open."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._links.close()
        await self._tending.close()

    async def look_at_outbox(
        self, url: str, *, stuck_after_seconds: float, run_ids: Sequence[str]
    ) -> OutboxDatabase | Trouble:
        """What waits, who sends, and the records of those runs."""
        settings = database_settings(url)
        if isinstance(settings, Trouble):
            return settings
        deadline = time.monotonic() + self._timeout_seconds

        async def look(conn: Connection) -> tuple[bool, dict[str, Any]]:
            if time.monotonic() - self._large.get(url, -math.inf) > LARGE_SECONDS:
                try:
                    return await self._count(conn, _FULL, stuck_after_seconds, run_ids)
                except psycopg.errors.QueryCanceled:
                    self._large[url] = time.monotonic()
            return await self._count(conn, _FIRST, stuck_after_seconds, run_ids)

        seen = await self._links.run(settings, look)
        if isinstance(seen, Trouble):
            return seen
        read_only, found = seen
        return OutboxDatabase(
            **found, findings=await self._findings(settings, "outbox", deadline=deadline, read_only=read_only)
        )

    async def look_at_inbox(self, url: str, *, consumer: str, run_ids: Sequence[str]) -> InboxDatabase | Trouble:
        """How the consumer fares, and the records of those runs."""
        settings = database_settings(url)
        if isinstance(settings, Trouble):
            return settings
        deadline = time.monotonic() + self._timeout_seconds

        async def look(conn: Connection) -> tuple[bool, dict[str, Any]]:
            async with conn.transaction():
                read_only = await _begin(conn, self._timeout_seconds)
                [[at]] = await _rows(conn, _CLOCK)
                [[failing, *_]] = await _rows(conn, status.FAILING, (consumer,))
                return read_only, {"at": at, "failing": failing, "runs": await _runs(conn, run_ids)}

        seen = await self._links.run(settings, look)
        if isinstance(seen, Trouble):
            return seen
        read_only, found = seen
        return InboxDatabase(
            **found, findings=await self._findings(settings, "inbox", deadline=deadline, read_only=read_only)
        )

    async def tend_history(self, url: str, tend: Tend) -> Trouble | None:
        """Make partitions ahead, and of the outbox's history drop old ones. Unsent rows stand in another table.

        What an inbox remembers is its consumer's to forget: a consumer refuses what is older than its own retention.
        What lies in the default partition goes a day at a time, so that each transaction is bounded and stays done.
        """
        settings = database_settings(url)
        if isinstance(settings, Trouble):
            return settings

        async def keep(conn: Connection) -> None:
            table = _HISTORY[tend.component]
            async with conn.transaction():
                await _begin(conn, self._tend_seconds)
                await conn.execute(partitions.MAKE_PARTITIONS, (table, partitions.DAYS_AHEAD))
            if tend.keep_days is not None and tend.component == "outbox":
                await self._prune(conn, table, tend.keep_days)

        return await self._tending.run(settings, keep)

    async def _prune(self, conn: Connection, table: str, keep_days: int) -> None:
        keep = -1
        while keep != keep_days:
            async with conn.transaction():
                await _begin(conn, self._tend_seconds)
                [[oldest]] = await _rows(conn, _DAYS_IN_THE_NET) or [(0,)]
                keep = max(keep_days, oldest - 1)
                await conn.execute(partitions.DROP_PARTITIONS, (table, keep))

    async def _count(
        self, conn: Connection, queries: _Queries, stuck_after_seconds: float, run_ids: Sequence[str]
    ) -> tuple[bool, dict[str, Any]]:
        given = {"stuck_after_seconds": stuck_after_seconds, "limit": MOST_ROUTES, "most": MOST_COUNTED}
        async with conn.transaction():
            seconds = self._full_count_seconds if queries is _FULL else self._timeout_seconds
            read_only = await _begin(conn, seconds)
            counts = Counts(*(await _rows(conn, queries.counts, given))[0])
            senders = await _rows(conn, outbox_queries.LIVE_SENDERS, {"silent_seconds": status.SILENT_SECONDS})
            routes = await _rows(conn, queries.routes, given) if counts.pending or counts.parked else ()
            parked = await _rows(conn, queries.parked_reasons, given) if counts.parked else ()
            found = {
                "counts": counts,
                "senders": tuple(map(status.LiveSender._make, senders)),
                "routes": tuple(map(WaitingRoute._make, routes)),
                "parked_reasons": tuple((str(reason), int(rows)) for reason, rows in parked),
                "runs": await _runs(conn, run_ids),
            }
        return read_only, found

    async def _findings(
        self, settings: DatabaseSettings, component: str, *, deadline: float, read_only: bool
    ) -> tuple[Finding, ...]:
        key, now = (settings.conninfo(), component), time.monotonic()
        last = self._examined.get(key)
        if last is not None and not last.is_due(now, read_only=read_only):
            return last.findings
        self._forget(now)
        try:
            findings = await self._examine(settings, component, deadline)
        except (OuthaulError, psycopg.Error, TimeoutError) as error:
            # The look itself went well: what was found before stands, and it is examined again at the next.
            _log.info("%s could not be examined: %s", settings.address, troubles.of_database(error, "it").message)
            return last.findings if last is not None else ()
        self._examined[key] = _Examined(findings, now, read_only)
        return findings

    async def _examine(self, settings: DatabaseSettings, component: str, deadline: float) -> tuple[Finding, ...]:
        opened: list[psycopg.Connection[Any]] = []

        def examine() -> tuple[Finding, ...]:
            seconds = deadline - time.monotonic()
            if seconds <= 0:
                raise TimeoutError
            with psycopg.connect(
                settings.conninfo(), autocommit=True, prepare_threshold=None, connect_timeout=max(2, round(seconds))
            ) as conn:
                opened.append(conn)
                return tuple(database_health.examine(conn, component))

        working = asyncio.get_running_loop().run_in_executor(self._threads, examine)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await working
        except TimeoutError:
            for conn in opened:
                cut(conn)
            raise

    def _forget(self, now: float) -> None:
        """What was said of databases that nobody names any more."""
        self._examined = {key: each for key, each in self._examined.items() if now - each.at < _FORGET_SECONDS}
        self._large = {url: at for url, at in self._large.items() if now - at < LARGE_SECONDS}


async def _begin(conn: Connection, seconds: float) -> bool:
    """Bound every statement of the transaction; whether nothing can be written in it."""
    [[_, read_only]] = await _rows(conn, _BEGIN, (f"{max(1, round(seconds * 1000))}ms",))
    return bool(read_only)


async def _runs(conn: Connection, run_ids: Sequence[str]) -> Mapping[str, Run]:
    if not run_ids:
        return {}
    async with conn.cursor(row_factory=class_row(Run)) as cursor:
        await cursor.execute(runs.GET_MANY, (list(run_ids),))
        return {run.run_id: run for run in await cursor.fetchall()}


async def _rows(
    conn: Connection, query: LiteralString, parameters: Mapping[str, Any] | Sequence[Any] = ()
) -> list[tuple[Any, ...]]:
    cursor = await conn.execute(query, parameters)
    return await cursor.fetchall()

"""What a claim costs: on an empty outbox's history, beside ten million rows of it, and beside a million leased rows.

Each figure is the median time of claims of 500 rows, and the buffers one claim touches, which unlike time do not
depend on what else the machine does.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from uuid import uuid4

import psycopg
from parts import Figure, Servers, database

from outhaul.database import outbox_queries
from outhaul.database.outbox_store import OutboxStore

CLAIMS = 60
ROWS_A_CLAIM = 500

_INSERT = """
INSERT INTO outbox (exchange, routing_key, type, source, aggregate_id, payload, available_at, lease_token)
SELECT 'bench.events', 'order.created', 'bench.order.created.v1', 'bench', n::text,
       convert_to(repeat('x', 200), 'UTF8'), clock_timestamp() + make_interval(secs => %s), %s
FROM generate_series(1, %s) AS n"""
_HISTORY = """
INSERT INTO outbox_sent (message_id, seq, exchange, routing_key, type, aggregate_id, attempts, created_at)
SELECT outhaul_uuidv7(), n, 'bench.events', 'order.created', 'bench.order.created.v1', n::text, 0, clock_timestamp()
FROM generate_series(1, %s) AS n"""


async def claim_milliseconds(url: str) -> tuple[float, int]:
    """Median milliseconds of a claim of 500, and the shared buffers one touches."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(_INSERT, (0, None, CLAIMS * ROWS_A_CLAIM + ROWS_A_CLAIM))
        conn.execute("VACUUM ANALYZE outbox")
        conn.execute("CHECKPOINT")
    times = []
    async with OutboxStore(database(url)) as store:
        for _ in range(CLAIMS):
            began = time.perf_counter()
            rows = await store.claim(ROWS_A_CLAIM, 3600)
            times.append(time.perf_counter() - began)
            assert len(rows) == ROWS_A_CLAIM
    with psycopg.connect(url, autocommit=True) as conn, conn.transaction(force_rollback=True):
        plan = conn.execute(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + outbox_queries.CLAIM,
            {"limit": ROWS_A_CLAIM, "token": uuid4(), "lease_seconds": 60.0},
        ).fetchone()
    assert plan is not None
    root = plan[0][0]["Plan"]
    return statistics.median(times) * 1000, root["Shared Hit Blocks"] + root["Shared Read Blocks"]


async def claim(parts: Servers, *, history: int, leased: int) -> list[Figure]:
    """The three situations in one run."""
    empty_url = parts.database("outbox")
    empty, empty_buffers = await claim_milliseconds(empty_url)

    history_url = parts.database("outbox")
    with psycopg.connect(history_url, autocommit=True) as conn:
        conn.execute("SET synchronous_commit = off")
        for _ in range(0, history, 1_000_000):
            conn.execute(_HISTORY, (min(1_000_000, history),))
    full, full_buffers = await claim_milliseconds(history_url)

    leased_url = parts.database("outbox")
    with psycopg.connect(leased_url, autocommit=True) as conn:
        conn.execute("SET synchronous_commit = off")
        conn.execute(_INSERT, (3600, uuid4(), leased))
    beside, beside_buffers = await claim_milliseconds(leased_url)
    return [
        Figure(
            f"claim of 500 beside {history:,} history rows",
            "ms",
            [full],
            [empty],
            "<= 1.1",
            f"buffers touched: {full_buffers} against {empty_buffers}",
        ),
        Figure(
            f"claim of 500 beside {leased:,} leased rows",
            "ms",
            [beside],
            [empty],
            "reported",
            f"buffers touched: {beside_buffers} against {empty_buffers}",
        ),
    ]


def run(parts: Servers, *, quick: bool) -> list[Figure]:
    """Ten million rows of history take minutes to make; ``quick`` makes a tenth."""
    scale = 10 if quick else 1
    return asyncio.run(claim(parts, history=10_000_000 // scale, leased=1_000_000 // scale))

"""What the outbox suites share: one database a module, emptied for each test; messages; tests that are coroutines."""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from outhaul import Message, Outbox
from outhaul.database import schema_apply

P = ParamSpec("P")
Rows = list[tuple[Any, ...]]

OUTBOX = Outbox(exchange="shop.events")


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A coroutine function as a test."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@contextmanager
def shared_database(postgres_url: str, *components: str) -> Iterator[str]:
    """A database for many tests, which empty it themselves: making one costs more than most tests."""
    name = f"test_{secrets.token_hex(6)}"
    url = urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            with psycopg.connect(url, autocommit=True) as conn:
                for component in components:
                    schema_apply.apply(conn, component)
            yield url
        finally:
            server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def emptied(dsn: str) -> str:
    """The same database, without a row."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("TRUNCATE outbox, outbox_sent, senders, runs, retention")
    return dsn


def created(n: int = 1, **changes: Any) -> Message:
    """A message about order ``n``."""
    given: dict[str, Any] = {
        "type": "shop.order.created.v1",
        "routing_key": "order.created",
        "aggregate_id": f"order-{n}",
        "data": {"n": n},
    }
    return Message(**(given | changes))


def query(dsn: str, text: str, *parameters: Any) -> Rows:
    """What the database says, seen from a connection of its own."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(text.encode(), parameters)
        return cursor.fetchall() if cursor.description else []


def record(dsn: str, count: int = 1, **changes: Any) -> list[Any]:
    """That many committed messages, in order; returns their ids."""
    with psycopg.connect(dsn) as conn:
        return [row.message_id for row in OUTBOX.add(conn, *(created(n, **changes) for n in range(count)))]

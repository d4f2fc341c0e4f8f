"""Databases and a virtual host of an example's own, on the servers that ``make up`` started.

    . .outhaul/env                                  # names the servers
    eval "$(uv run python examples/shop/scratch.py)"  # makes both, prints where they are

The demo's own tables, queues and running functions are left alone.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from outhaul import schema_apply


def from_environment(name: str) -> str:
    """A variable's value, or a way out."""
    value = os.environ.get(name)
    if not value:
        sys.exit(f"{name} is not set; run `make up`, then `. .outhaul/env`")
    return value


def make_database(name: str, *, schema: Sequence[str] = (), tables: Sequence[str] = ()) -> str:
    """An empty database beside the demo's, with Outhaul's components and the example's tables; returns its DSN."""
    server = from_environment("OUTHAUL_ORDER_DATABASE_URL")
    unique = f"{name}_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(unique)))
    dsn = urlunsplit(urlsplit(server)._replace(path=f"/{unique}"))
    with psycopg.connect(dsn, autocommit=True) as conn:
        for component in schema:
            schema_apply.apply(conn, component)
        for table in tables:
            conn.execute(table.encode())
    return dsn


def drop_database(dsn: str) -> None:
    """Drop it, whoever is still connected."""
    name = urlsplit(dsn).path[1:]
    with psycopg.connect(from_environment("OUTHAUL_ORDER_DATABASE_URL"), autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def database(name: str, *, schema: Sequence[str] = (), tables: Sequence[str] = ()) -> Iterator[str]:
    """A database for the length of the block."""
    dsn = make_database(name, schema=schema, tables=tables)
    try:
        yield dsn
    finally:
        drop_database(dsn)

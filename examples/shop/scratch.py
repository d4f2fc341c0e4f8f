"""Databases and a virtual host of an example's own, on the servers that ``make up`` started.

    . .outhaul/env                                       # names the servers
    eval "$(uv run python examples/shop/scratch.py)"       # makes them, says where they are
    uv run python examples/shop/scratch.py --drop          # takes them away again

The demo's own tables, queues and running functions are left alone.
"""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import httpx
import pika
import psycopg
from psycopg import sql

from outhaul.database import schema_apply

VARIABLES = ("DATABASE_URL", "WAYBILL_DATABASE_URL", "AMQP_URL", "MANAGEMENT_URL")


def from_environment(name: str) -> str:
    """A variable's value, or a way out."""
    value = os.environ.get(name)
    if not value:
        sys.exit(f"{name} is not set; run `make up`, then `. .outhaul/env`")
    return value


@contextmanager
def database(name: str, *, schema: Sequence[str] = (), tables: Sequence[str] = ()) -> Iterator[str]:
    """A database for the length of the block; yields its DSN."""
    dsn = make_database(name, schema=schema, tables=tables)
    try:
        yield dsn
    finally:
        drop_database(dsn)


@contextmanager
def virtual_host(name: str) -> Iterator[str]:
    """A virtual host of the broker for the length of the block; yields its AMQP URL."""
    amqp_url = make_virtual_host(name)
    try:
        yield amqp_url
    finally:
        drop_virtual_host(amqp_url)


def make_database(name: str, *, schema: Sequence[str] = (), tables: Sequence[str] = ()) -> str:
    """An empty database beside the demo's, with Outhaul's components and the example's tables; returns its DSN."""
    server = from_environment("OUTHAUL_ORDER_DATABASE_URL")
    unique = f"{name}_{secrets.token_hex(4)}"
    try:
        with psycopg.connect(server, autocommit=True) as conn:
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(unique)))
    except psycopg.errors.InsufficientPrivilege:
        sys.exit("OUTHAUL_ORDER_DATABASE_URL: its role may not create databases; name one that may")
    except psycopg.OperationalError as error:
        sys.exit(f"OUTHAUL_ORDER_DATABASE_URL: {error}")
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


def make_virtual_host(name: str) -> str:
    """An empty virtual host beside the demo's; returns its AMQP URL."""
    broker = urlsplit(from_environment("OUTHAUL_AMQP_URL"))
    unique = f"{name}-{secrets.token_hex(4)}"
    rights = {"configure": ".*", "write": ".*", "read": ".*"}
    try:
        with _management() as api:
            api.put(f"/api/vhosts/{unique}").raise_for_status()
            api.put(f"/api/permissions/{unique}/{quote(broker.username or 'guest')}", json=rights).raise_for_status()
    except httpx.HTTPError as error:
        sys.exit(f"OUTHAUL_MANAGEMENT_URL: no virtual host could be made ({error}); its user must be an administrator")
    return urlunsplit(broker._replace(path=f"/{unique}"))


def drop_virtual_host(amqp_url: str) -> None:
    """Delete it with everything in it."""
    with _management() as api:
        api.delete(f"/api/vhosts/{urlsplit(amqp_url).path[1:]}").raise_for_status()


def messages_waiting(amqp_url: str, queue: str) -> int:
    """How many messages of a queue no consumer has in its hands."""
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        return int(connection.channel().queue_declare(queue, passive=True).method.message_count)


def _management() -> httpx.Client:
    url = urlsplit(from_environment("OUTHAUL_MANAGEMENT_URL"))
    user = (unquote(url.username or "guest"), unquote(url.password or "guest"))
    return httpx.Client(base_url=f"{url.scheme}://{url.hostname}:{url.port}", auth=user, timeout=30, trust_env=False)


def main() -> None:
    """Make or drop what examples 03 and 04 run on."""
    if sys.argv[1:] == ["--drop"]:
        for name in ("DATABASE_URL", "WAYBILL_DATABASE_URL"):
            drop_database(from_environment(name))
        drop_virtual_host(from_environment("AMQP_URL"))
        return
    made = (
        make_database("example_orders", schema=["outbox"]),
        make_database("example_waybills", schema=["inbox"]),
        make_virtual_host("example"),
        from_environment("OUTHAUL_MANAGEMENT_URL"),
    )
    for name, value in zip(VARIABLES, made, strict=True):
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()

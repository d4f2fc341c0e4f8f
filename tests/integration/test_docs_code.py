"""The code on the pages in docs does what the page says: it is taken from the page and run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from outhaul import Event, Message, Outbox, Retry
from outhaul.broker_admin.topology_load import load_topology
from outhaul.ids import first_at
from outhaul.testing import Harness
from outhaul.topology import consumer_topology

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"
OUTBOX = Outbox(exchange="shop.events")


def code_of(page: str, **names: object) -> Any:
    """The Python blocks of a recipe, run with ``names`` defined; what they define, as attributes."""
    text = (RECIPES / page).read_text(encoding="utf-8")
    defined: dict[str, Any] = dict(names)
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        exec(compile(block, page, "exec"), defined)
    return SimpleNamespace(**defined)


@pytest.fixture
def conn(outbox_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(outbox_dsn, autocommit=True) as connection:
        yield connection


def count(conn: psycopg.Connection[Any], table: str) -> int:
    row = conn.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])


class TestBackfill:
    @pytest.fixture
    def orders(self, conn: psycopg.Connection[Any]) -> datetime:
        """2,500 old orders and 10 that were placed since; the instant between them."""
        conn.execute(
            "CREATE TABLE orders (order_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
            "customer text NOT NULL, placed_at timestamptz NOT NULL)"
        )
        switched = datetime.now(UTC)
        for many, placed_at in ((2500, switched - timedelta(days=400)), (10, switched + timedelta(seconds=1))):
            conn.execute(
                "INSERT INTO orders (customer, placed_at) SELECT 'c' || n, %s FROM generate_series(1, %s) AS n",
                (placed_at, many),
            )
        return switched

    def test_every_old_order_gets_one_message_and_no_new_one_does(
        self, conn: psycopg.Connection[Any], orders: datetime
    ) -> None:
        recipe = code_of("backfill.md")
        assert recipe.backfill(conn, OUTBOX, before=orders, page=400, most_pending=10_000) == 2500
        ids = conn.execute("SELECT aggregate_id::bigint FROM outbox ORDER BY seq").fetchall()
        assert [i for (i,) in ids] == list(range(1, 2501))

    def test_a_second_run_records_nothing(self, conn: psycopg.Connection[Any], orders: datetime) -> None:
        recipe = code_of("backfill.md")
        recipe.backfill(conn, OUTBOX, before=orders, page=1000, most_pending=10_000)
        assert recipe.backfill(conn, OUTBOX, before=orders, page=1000, most_pending=10_000) == 0
        assert count(conn, "outbox") == 2500

    def test_it_waits_while_too_many_rows_are_pending(self, conn: psycopg.Connection[Any], orders: datetime) -> None:
        recipe = code_of("backfill.md")
        recipe.backfill(conn, OUTBOX, before=orders, page=1000, most_pending=10_000)
        recipe.wait_for_room(conn, 2500)
        with pytest.raises(TimeoutError, match="is a sender running"):
            recipe.wait_for_room(conn, 2499, deadline_seconds=0)


def test_a_large_payload_is_stored_with_the_order_and_named_in_the_message(conn: psycopg.Connection[Any]) -> None:
    recipe = code_of("large-payloads.md")
    conn.execute(recipe.DOCUMENTS)
    body = b"x" * 100_000
    with conn.transaction():
        recipe.attach(conn, OUTBOX, "42", body)
    row = conn.execute("SELECT payload, length(payload) FROM outbox").fetchone()
    assert row is not None
    data = json.loads(row[0])
    assert row[1] < 1000
    assert data["sha256"] == hashlib.sha256(body).hexdigest()
    stored = conn.execute(
        "SELECT body FROM documents WHERE document_id = %s", (data["document"].removeprefix("/documents/"),)
    ).fetchone()
    assert stored == (body,)


def test_a_stale_message_changes_nothing(conn: psycopg.Connection[Any]) -> None:
    recipe = code_of("ordering.md")
    conn.execute(recipe.ADDRESSES)
    for sequence, address in ((7, "old street"), (9, "new street"), (8, "in between"), (9, "new street")):
        recipe.keep_newest(address_changed(sequence, address), conn)
    assert conn.execute("SELECT address, sequence FROM addresses").fetchall() == [("new street", 9)]


def address_changed(sequence: int, address: str) -> Event:
    return Event(
        id=first_at(datetime.now(UTC)),
        type="shop.order.address-changed.v1",
        source="shop.events",
        time=None,
        subject="order 1",
        sequence=sequence,
        causation_id=None,
        traceparent=None,
        data={"address": address},
    )


def test_one_database_serves_both_sides(make_database: Callable[..., str]) -> None:
    dsn = make_database(("outbox", "inbox"))
    recipe = code_of("one-database.md", DSN=dsn, AMQP_URL="amqp://guest:guest@127.0.0.1:5672/%2F")
    with psycopg.connect(dsn) as conn:
        conn.execute("CREATE TABLE orders (order_id integer PRIMARY KEY, invoiced boolean NOT NULL DEFAULT false)")
        conn.execute("CREATE TABLE invoices (order_id integer PRIMARY KEY REFERENCES orders)")
        conn.execute("INSERT INTO orders VALUES (1)")
        created = Message(
            type="shop.order.created.v1", routing_key="order.created", aggregate_id="1", data={"order_id": 1}
        )
        OUTBOX.add(conn, created)
        [message] = Harness().pending(conn, aggregate_id="1")
        assert Harness().deliver(recipe.consumer, message, times=2, conn=conn).results == ["handled", "duplicate"]
        assert conn.execute("SELECT invoiced FROM orders").fetchone() == (True,)


def test_the_pgbouncer_page_names_what_exists(outbox_dsn: str) -> None:
    recipe = code_of("pgbouncer.md", dsn=outbox_dsn)
    assert recipe.conn.prepare_threshold is None
    recipe.conn.close()
    assert recipe.pool.closed


def test_the_code_of_the_sdk_page_works(make_database: Callable[..., str], outhaul: Harness) -> None:
    orders_dsn, waybills_dsn = make_database(("outbox",)), make_database(("inbox",))
    page = code_of(
        "../using-the-sdk.md", WAYBILL_DATABASE_URL=waybills_dsn, AMQP_URL="amqp://guest:guest@127.0.0.1:5672/%2F"
    )
    with (
        psycopg.connect(orders_dsn, autocommit=True) as conn,
        psycopg.connect(waybills_dsn, autocommit=True) as waybills,
    ):
        conn.execute(
            "CREATE TABLE orders (order_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer text NOT NULL)"
        )
        waybills.execute("CREATE TABLE waybills (order_id integer NOT NULL, customer text NOT NULL)")
        page.test_an_order_becomes_one_waybill(conn, waybills, outhaul)
        conn.execute("TRUNCATE outbox")
        page.test_an_order_without_a_customer_is_turned_away(conn, outhaul)
        [message] = outhaul.pending(conn)
        assert outhaul.deliver(page.batch_consumer, message).result == "handled"
        assert waybills.execute("SELECT order_id FROM waybills ORDER BY order_id").fetchall() == [(1,), (2,)]


def test_the_topology_of_the_sdk_page_is_the_one_its_consumer_needs(tmp_path: Path) -> None:
    text = (RECIPES.parent / "using-the-sdk.md").read_text(encoding="utf-8")
    [toml] = re.findall(r"^```toml\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "shop.toml").write_text(toml)
    assert load_topology(str(tmp_path / "shop.toml")) == consumer_topology(
        "shop.waybill", bindings=[("shop.events", "order.created")], retry_delays_seconds=Retry().delays
    )

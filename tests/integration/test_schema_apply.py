"""The schema goes forward only, once, whoever runs it and however often."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from outbox_support import OUTBOX, created, in_loop, query, record, shared_database
from outhaul.database import partitions, schema_apply
from outhaul.database.outbox_store import OutboxStore
from outhaul.errors import ConfigurationError, SchemaError
from outhaul.settings import DatabaseSettings

Conn = psycopg.Connection[Any]
Write = Callable[..., None]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def home(postgres_url: str) -> Iterator[str]:
    """A database without any table."""
    with shared_database(postgres_url) as dsn:
        yield dsn


@pytest.fixture
def make_place(home: str) -> Callable[[], str]:
    """Makes an empty place for tables: a schema of its own, first on the search path. Nothing needs `public`."""

    def make() -> str:
        name = f"place {secrets.token_hex(4)}"  # with a space: names are quoted wherever they are used
        query(home, f'CREATE SCHEMA "{name}"')
        return f"{home}?{urlencode({'options': '-c search_path=' + quoted(name)}, quote_via=quote)}"

    return make


def quoted(name: str) -> str:
    """For libpq's `options`, where a space ends an argument unless it is escaped."""
    return f'"{name}"'.replace(" ", "\\ ")


@pytest.fixture
def dsn(make_place: Callable[[], str]) -> str:
    return make_place()


@pytest.fixture
def conn(dsn: str) -> Iterator[Conn]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield conn


@pytest.fixture
def component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Installs a component of the test's own: its files by name, and what its package says."""
    monkeypatch.syspath_prepend(str(tmp_path))
    installed = schema_apply.components()

    def write(name: str, files: dict[str, str], says: str = "") -> None:
        package = f"schema_{next(_numbers)}_{name}"
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(says)
        for file, text in files.items():
            (tmp_path / package / file).write_text(text)
        installed[name] = package

    monkeypatch.setattr(schema_apply, "components", lambda: installed)
    return write


HERE = "quote_ident(current_schema())::regnamespace"


def tables(conn: Conn) -> set[str]:
    found = conn.execute(
        f"SELECT relname FROM pg_class WHERE relnamespace = {HERE} AND relkind IN ('r', 'p') "
        "AND NOT relispartition".encode()
    )
    return {row[0] for row in found}


def ledger(conn: Conn) -> list[tuple[Any, ...]]:
    return conn.execute("SELECT component, version, name FROM outhaul_schema ORDER BY 1, 2").fetchall()


def everything(conn: Conn) -> list[Any]:
    """The database's structure, as far as a second run could change it."""
    return conn.execute(
        f"SELECT 'table', relname::text, reloptions::text FROM pg_class WHERE relnamespace = {HERE} "
        "UNION ALL SELECT 'function', proname::text, pg_get_functiondef(oid) FROM pg_proc "
        f"WHERE pronamespace = {HERE} "
        "UNION ALL SELECT 'applied', component || version, applied_at::text FROM outhaul_schema "
        "ORDER BY 1, 2, 3".encode()
    ).fetchall()


OUTBOX_TABLES = {"outbox", "outbox_sent", "senders", "runs", "retention", "outhaul_schema"}


def test_applying_makes_the_tables_and_says_which_steps_were_run(conn: Conn) -> None:
    [step] = schema_apply.apply(conn, "outbox")
    assert (step.component, step.version, step.name) == ("outbox", 1, "initial")
    assert tables(conn) == OUTBOX_TABLES
    assert ledger(conn) == [("outbox", 1, "initial")]


def test_applying_again_changes_nothing(conn: Conn) -> None:
    schema_apply.apply(conn, "outbox")
    before = everything(conn)
    assert schema_apply.apply(conn, "outbox") == []
    assert everything(conn) == before


def test_outbox_and_inbox_share_a_database_in_either_order(conn: Conn, make_place: Callable[[], str]) -> None:
    schema_apply.apply(conn, "outbox")
    schema_apply.apply(conn, "inbox")
    with psycopg.connect(make_place(), autocommit=True) as other:
        schema_apply.apply(other, "inbox")
        schema_apply.apply(other, "outbox")
        assert tables(other) == tables(conn) == OUTBOX_TABLES | {"inbox", "inbox_consumers", "deliveries"}


def test_what_outbox_and_inbox_share_is_the_same_in_both(make_place: Callable[[], str]) -> None:
    """Whichever is applied last replaces the functions."""
    found = []
    for name in ("outbox", "inbox"):
        with psycopg.connect(make_place(), autocommit=True) as conn:
            schema_apply.apply(conn, name)
            functions = conn.execute(
                "SELECT replace(pg_get_functiondef(oid), current_schema(), 'here') FROM pg_proc "
                f"WHERE pronamespace = {HERE} AND proname <> 'outhaul_uuidv7' ORDER BY proname".encode()
            )
            columns = conn.execute(
                "SELECT table_name, column_name, data_type, column_default FROM information_schema.columns "
                "WHERE table_schema = current_schema() AND table_name IN ('runs', 'retention') "
                "ORDER BY table_name, ordinal_position"
            )
            found.append((functions.fetchall(), columns.fetchall()))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["order", "waybill"])
def test_a_functions_component_brings_those_it_stands_on(conn: Conn, name: str) -> None:
    if name not in schema_apply.components():
        pytest.skip(f"component {name} is not installed")
    base = {"order": "outbox", "waybill": "inbox"}[name]
    assert [step.component for step in schema_apply.apply(conn, name)] == [base, name]
    assert {f"{name}s", base} <= tables(conn)
    schema_apply.check(conn, name)


def test_two_at_once_do_the_work_once(dsn: str) -> None:
    def one(_n: int) -> int:
        with psycopg.connect(dsn, autocommit=True) as conn:
            return len(schema_apply.apply(conn, "outbox")) + len(schema_apply.apply(conn, "inbox"))

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(one, range(6))) == 2
    with psycopg.connect(dsn, autocommit=True) as conn:
        assert ledger(conn) == [("inbox", 1, "initial"), ("outbox", 1, "initial")]


def test_a_plan_tells_what_is_missing_and_changes_nothing(conn: Conn) -> None:
    plan = schema_apply.plan(conn, "outbox")
    assert (plan.component, plan.applied, [step.version for step in plan.missing]) == ("outbox", 0, [1])
    assert "CREATE TABLE outbox" in plan.missing[0].sql
    assert tables(conn) == set()
    schema_apply.apply(conn, "outbox")
    plan = schema_apply.plan(conn, "outbox")
    assert (plan.applied, plan.missing) == (1, ())


def test_plans_name_what_is_required_first(conn: Conn, component: Write) -> None:
    component("shop", {"0001_shop.sql": "CREATE TABLE shops (shop_id bigint)"}, 'REQUIRES = ("outbox",)')
    assert [(plan.component, len(plan.missing)) for plan in schema_apply.plans(conn, "shop")] == [
        ("outbox", 1),
        ("shop", 1),
    ]
    with pytest.raises(SchemaError, match="schema outbox lacks version 1; run `outhaul schema apply --component shop`"):
        schema_apply.check(conn, "shop")
    assert [step.component for step in schema_apply.apply(conn, "shop")] == ["outbox", "shop"]
    schema_apply.check(conn, "shop")


def test_only_missing_versions_are_applied_and_in_order(conn: Conn, component: Write) -> None:
    files = {
        "0002_more.sql": "INSERT INTO shops VALUES (2)",
        "0001_shop.sql": "CREATE TABLE shops (shop_id bigint)",
        "0010_last.sql": "INSERT INTO shops SELECT max(shop_id) + 8 FROM shops",
        "README.md": "not a step",
        "3_no.sql": "not a step either",
    }
    component("shop", {name: text for name, text in files.items() if not name.startswith("0010")})
    assert [step.version for step in schema_apply.apply(conn, "shop")] == [1, 2]
    component("shop", files)
    assert [step.version for step in schema_apply.apply(conn, "shop")] == [10]
    assert conn.execute("SELECT shop_id FROM shops ORDER BY 1").fetchall() == [(2,), (10,)]


def test_a_step_that_fails_leaves_nothing_of_any(conn: Conn, component: Write) -> None:
    component("shop", {"0001_shop.sql": "CREATE TABLE shops (a int)", "0002_bad.sql": "CREATE TABLE shops (b int)"})
    with pytest.raises(SchemaError, match=r"shop version 2 \(bad\).*already exists") as caught:
        schema_apply.apply(conn, "shop")
    assert isinstance(caught.value.__cause__, psycopg.Error)
    assert tables(conn) == set()


def test_an_applied_file_that_changed_is_refused(conn: Conn, component: Write) -> None:
    component("shop", {"0001_shop.sql": "CREATE TABLE shops (shop_id bigint)"})
    schema_apply.apply(conn, "shop")
    component("shop", {"0001_shop.sql": "CREATE TABLE shops (shop_id text)"})
    for call in (schema_apply.plan, schema_apply.apply, schema_apply.check):
        with pytest.raises(SchemaError, match=r"version 1 \(shop\).*differs"):
            call(conn, "shop")


def test_line_endings_of_a_checkout_make_no_difference(conn: Conn, component: Write) -> None:
    component("shop", {"0001_shop.sql": "CREATE TABLE shops (\n  shop_id bigint\n)"})
    schema_apply.apply(conn, "shop")
    component("shop", {"0001_shop.sql": "CREATE TABLE shops (\r\n  shop_id bigint\r\n)"})
    assert schema_apply.apply(conn, "shop") == []


def test_a_database_newer_than_this_release_is_fine(conn: Conn, component: Write) -> None:
    first = {"0001_shop.sql": "CREATE TABLE shops (shop_id bigint)"}
    component("shop", first | {"0002_more.sql": "ALTER TABLE shops ADD name text"})
    schema_apply.apply(conn, "shop")
    component("shop", first)
    assert schema_apply.plan(conn, "shop").applied == 2
    assert schema_apply.apply(conn, "shop") == []
    schema_apply.check(conn, "shop")


def test_check_names_what_is_missing_and_the_command(conn: Conn) -> None:
    with pytest.raises(SchemaError, match="outbox lacks version 1; run `outhaul schema apply --component outbox`"):
        schema_apply.check(conn, "outbox")
    schema_apply.apply(conn, "outbox")
    schema_apply.check(conn, "outbox")


def test_a_component_that_is_not_installed_is_refused_with_those_that_are(conn: Conn) -> None:
    for call in (schema_apply.plan, schema_apply.apply, schema_apply.check):
        with pytest.raises(ConfigurationError, match="inbox") as caught:
            call(conn, "outbux")
        assert caught.value.setting == "component"


def test_two_files_of_one_version_are_refused(component: Write) -> None:
    component("shop", {"0001_a.sql": "SELECT 1", "0001_b.sql": "SELECT 2"})
    with pytest.raises(SchemaError, match="two files for version 1"):
        schema_apply.steps("shop")


def test_components_that_require_each_other_are_refused(component: Write) -> None:
    component("a", {}, 'REQUIRES = ("b",)')
    component("b", {}, 'REQUIRES = ("a",)')
    with pytest.raises(SchemaError, match="a -> b -> a"):
        schema_apply.requirements("a")


def test_what_two_components_require_is_applied_once(conn: Conn, component: Write) -> None:
    component("base", {"0001_base.sql": "CREATE TABLE bases (a int)"})
    component("left", {"0001_left.sql": "CREATE TABLE lefts (a int)"}, 'REQUIRES = ("base",)')
    component("top", {"0001_top.sql": "CREATE TABLE tops (a int)"}, 'REQUIRES = ("left", "base")')
    assert [step.component for step in schema_apply.apply(conn, "top")] == ["base", "left", "top"]


def test_a_connection_inside_a_transaction_is_refused(dsn: str) -> None:
    """What is applied would come and go with somebody else's work."""
    with psycopg.connect(dsn) as conn:
        conn.execute("SELECT 1")
        with pytest.raises(SchemaError, match="not inside a transaction"):
            schema_apply.apply(conn, "outbox")
        conn.rollback()
        schema_apply.apply(conn, "outbox")
        conn.rollback()
        schema_apply.check(conn, "outbox")


def test_a_connections_own_row_factory_does_not_matter(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as conn:
        assert len(schema_apply.apply(conn, "inbox")) == 1
        schema_apply.check(conn, "inbox")


def test_partitions_that_cannot_be_made_now_are_told_apart_from_a_broken_schema(conn: Conn, dsn: str) -> None:
    schema_apply.apply(conn, "outbox")
    conn.execute(f"DROP TABLE {newest_partition(conn)}".encode())
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT FROM outbox_sent_default")
        with pytest.raises(SchemaError, match="partitions of outbox_sent: somebody holds a lock"):
            schema_apply.apply(conn, "outbox")
    schema_apply.apply(conn, "outbox")
    assert newest_partition(conn)


def newest_partition(conn: Conn) -> str:
    row = conn.execute("SELECT max(relname) FROM pg_class WHERE relname ~ '^outbox_sent_p[0-9]{8}$'").fetchone()
    assert row is not None
    return str(row[0])


# A process that only sends: it records nothing, and keeps the history.
SENDER_GRANTS = """
GRANT SELECT ON outhaul_schema, retention TO {role};
GRANT SELECT, UPDATE, DELETE ON outbox TO {role};
GRANT SELECT, INSERT ON outbox_sent TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON senders TO {role};
GRANT SELECT, INSERT, UPDATE ON runs TO {role};
GRANT EXECUTE ON FUNCTION outhaul_make_partitions(text, integer), outhaul_drop_partitions(text, integer) TO {role}"""
PRODUCER_GRANTS = "GRANT SELECT, INSERT ON outbox TO {role}"


@pytest.fixture(scope="module")
def owned(postgres_url: str) -> Iterator[str]:
    """A database whose tables belong to the superuser that applied the schema."""
    with shared_database(postgres_url, "outbox") as dsn:
        yield dsn


@pytest.fixture
def as_role(owned: str, postgres_url: str) -> Iterator[Callable[[str], str]]:
    """Makes a role with the given grants; returns its DSN."""
    made: list[str] = []

    def make(grants: str) -> str:
        name, password = f"test_{secrets.token_hex(6)}", secrets.token_hex(8)
        made.append(name)
        query(owned, f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        for grant in grants.format(role=name).split(";"):
            query(owned, grant)
        parts = urlsplit(owned)
        return urlunsplit(parts._replace(netloc=f"{name}:{password}@{parts.hostname}:{parts.port}"))

    yield make
    query(owned, "TRUNCATE outbox, outbox_sent, senders, runs, retention")
    for name in made:
        query(owned, f"DROP OWNED BY {name} CASCADE")
        with psycopg.connect(postgres_url, autocommit=True) as server:
            server.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@in_loop
async def test_a_sender_needs_no_more_than_its_grants(owned: str, as_role: Callable[[str], str]) -> None:
    recorded = record(owned, 6)
    dsn = as_role(SENDER_GRANTS)
    with psycopg.connect(dsn) as conn:
        schema_apply.check(conn, "outbox")
        assert conn.execute(partitions.FORGOTTEN_BEFORE, ("outbox_sent",)).fetchone() is None
    async with OutboxStore(DatabaseSettings.parse(dsn)) as store:
        sender = recorded[0]
        await store.heartbeat(sender, name="n", host="h", version="1", state="sending")
        rows = await store.claim(2, 60)
        assert await store.confirm([rows[0].message_id]) == 1
        assert await store.release(rows[1:], delay_seconds=600, last_error="x") == 1
        assert await store.wake_route("shop.events", "order.created") == 1
        [row] = await store.claim_route("shop.events", "order.created", 1, 60)
        assert await store.fail(row, last_error="x", delay_seconds=0, max_attempts=1, reason="r") == "parked"
        assert await store.unpark([row.message_id]) == [row.message_id]
        assert len(await store.claim_ids([row.message_id], 0)) == 1
        assert len(await store.discard([row.message_id], reason="r", actor="a", run_id="d")) == 1
        assert (await store.count()).pending == 4
        assert await store.start_run("r", kind="resend", actor="a", request={})
        await store.finish_run("r", state="done", counts={}, detail=None)
        assert await store.make_partitions(8) == 1
        assert await store.drop_partitions(30) == 0
        await store.forget_sender(sender)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE more (a int)",
        "DROP TABLE outbox_sent_default",
        "ALTER TABLE outbox ADD more text",
        "TRUNCATE outbox",
        "DELETE FROM outbox_sent",
        "UPDATE outbox_sent SET seq = 0",
        "INSERT INTO outbox DEFAULT VALUES",
        "DELETE FROM runs",
        "UPDATE retention SET forgotten_before = '-infinity'",
        "UPDATE outhaul_schema SET checksum = ''",
    ],
)
def test_a_senders_grants_allow_nothing_else(as_role: Callable[[str], str], statement: str) -> None:
    dsn = as_role(SENDER_GRANTS)
    with psycopg.connect(dsn, autocommit=True) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute(statement.encode())


def test_a_producer_needs_to_insert_and_read_back_only(owned: str, as_role: Callable[[str], str]) -> None:
    dsn = as_role(PRODUCER_GRANTS)
    with psycopg.connect(dsn) as conn:
        OUTBOX.add(conn, created(1), created(2))
        statement, parameters = OUTBOX.statement(created(3))
        conn.execute(statement, parameters)
    assert query(owned, "SELECT count(*) FROM outbox") == [(3,)]
    with psycopg.connect(dsn) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("DELETE FROM outbox")


def test_a_role_that_may_not_read_the_versions_is_told_so(as_role: Callable[[str], str]) -> None:
    dsn = as_role(PRODUCER_GRANTS)
    with psycopg.connect(dsn) as conn, pytest.raises(SchemaError, match="grant it SELECT on outhaul_schema"):
        schema_apply.check(conn, "outbox")


def test_a_role_that_may_not_make_tables_is_told_so(as_role: Callable[[str], str], component: Write) -> None:
    component("shop", {"0001_shop.sql": "CREATE TABLE shops (a int)"})
    dsn = as_role("GRANT SELECT, INSERT ON outhaul_schema TO {role}")
    with psycopg.connect(dsn, autocommit=True) as conn, pytest.raises(SchemaError, match="permission denied"):
        schema_apply.apply(conn, "shop")

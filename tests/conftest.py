"""Real servers for every suite.

A session starts its own PostgreSQL and RabbitMQ, with own data and free ports, so that two runs cannot collide;
``OUTHAUL_TEST_POSTGRES_URL``, ``OUTHAUL_TEST_AMQP_URL`` and ``OUTHAUL_TEST_MANAGEMENT_URL`` name running ones to use
instead. Each test has databases and a virtual host of its own, dropped afterwards.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import httpx
import psycopg
import pytest
from psycopg import sql

from outhaul.database import schema_apply
from outhaul_local import ports
from outhaul_local.failure import LocalFailure
from outhaul_local.identity import server_identity
from outhaul_local.postgres import PostgresServer
from outhaul_local.rabbitmq import BrokerPorts, RabbitServer, broker_version, find_binary
from outhaul_local.tether import Tether
from support import BrokerUnderTest

MakeDatabase = Callable[..., str]

# Suites kill the server, which loses nothing that the kernel holds; only a machine's crash would, and these databases
# live as long as the session. Each test makes and drops one, and most of that time would be waiting for the disk.
WITHOUT_DISK = {"fsync": "off", "full_page_writes": "off", "checkpoint_flush_after": "0", "bgwriter_flush_after": "0"}


# Here, for this is read before the workers of a run begin: they inherit it, and make the same random choices.
os.environ["CHAOS_SEED"] = os.environ.get("CHAOS_SEED") or secrets.token_hex(4)


def missing(part: str) -> None:
    """A missing part skips on a laptop and fails in CI, where it must not be missing."""
    if os.environ.get("CI"):
        pytest.fail(f"{part} is missing, and this is CI")
    pytest.skip(f"{part} is missing")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """``@pytest.mark.needs("pgbouncer")``: a program on PATH (or in /usr/sbin) that the test runs."""
    for marker in item.iter_markers("needs"):
        for part in marker.args:
            search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
            if shutil.which(part, path=search) is None:
                missing(part)


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    """A folder that the servers' user can enter."""
    identity = server_identity()
    folder = Path(tempfile.mkdtemp(prefix="outhaul-test-"))
    identity.own(folder)
    if not identity.can_enter(folder):  # TMPDIR below /root, say
        shutil.rmtree(folder)
        folder = Path(tempfile.mkdtemp(prefix="outhaul-test-", dir="/var/tmp"))
        identity.own(folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def tether(servers_folder: Path) -> Iterator[Tether]:
    """Ends the servers and removes their data even if this process is killed."""
    with Tether(servers_folder) as held:
        yield held


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A PostgreSQL server's URL, for a superuser."""
    given = os.environ.get("OUTHAUL_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    folder: Path = request.getfixturevalue("servers_folder")
    held: Tether = request.getfixturevalue("tether")
    server = PostgresServer(
        folder=folder / "postgres",
        log=folder / "postgres.log",
        port=ports.free_port(),
        password=secrets.token_hex(16),
    )
    try:
        server.initialise()
        server.start()
    except LocalFailure as error:
        missing(f"PostgreSQL ({error})")
    if server.process is not None:
        held.hold(server.process)
    with psycopg.connect(server.url(), autocommit=True) as conn:
        # Not on the command line, which would win over a test that wants another value for a while.
        for name, value in WITHOUT_DISK.items():
            conn.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), value))
        conn.execute("SELECT pg_reload_conf()")
    yield server.url()
    server.stop()


@pytest.fixture(scope="session")
def _templates(postgres_url: str) -> Iterator[Callable[[tuple[str, ...]], str]]:
    """Makes, once a session, the template database that holds the given components' schema."""
    run = secrets.token_hex(4)
    names: dict[tuple[str, ...], str] = {}

    def template(schema: tuple[str, ...]) -> str:
        if schema not in names:
            name = f"test_{run}_template_{len(names)}"
            with psycopg.connect(postgres_url, autocommit=True) as conn:
                conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            names[schema] = name
            with psycopg.connect(_with_database(postgres_url, name), autocommit=True) as conn:
                for component in schema:
                    schema_apply.apply(conn, component)
        return names[schema]

    yield template
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        for name in names.values():
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def make_database(postgres_url: str, _templates: Callable[[tuple[str, ...]], str]) -> Iterator[MakeDatabase]:
    """Makes a database that holds the given components' schema; returns its URL. Dropped after the test."""
    made: list[str] = []

    def make(schema: tuple[str, ...] = ("outbox", "inbox")) -> str:
        name = f"test_{secrets.token_hex(6)}"
        template = _templates(tuple(schema))
        with psycopg.connect(postgres_url, autocommit=True) as conn:
            conn.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
            )
        made.append(name)
        return _with_database(postgres_url, name)

    yield make
    if made:
        with psycopg.connect(postgres_url, autocommit=True) as conn:
            for name in made:
                conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def outbox_dsn(make_database: MakeDatabase) -> str:
    """A producer's database."""
    return make_database(("outbox",))


@pytest.fixture
def inbox_dsn(make_database: MakeDatabase) -> str:
    """A consumer's database."""
    return make_database(("inbox",))


@pytest.fixture(scope="session")
def _broker_urls(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """AMQP and management URL of the session's broker."""
    amqp, management = os.environ.get("OUTHAUL_TEST_AMQP_URL"), os.environ.get("OUTHAUL_TEST_MANAGEMENT_URL")
    if amqp and management:
        yield amqp, management.rstrip("/")
        return
    binary = find_binary(os.environ.get("OUTHAUL_RABBITMQ_SERVER"))
    if binary is None:
        missing("rabbitmq-server")
        return
    folder: Path = request.getfixturevalue("servers_folder")
    held: Tether = request.getfixturevalue("tether")
    server = RabbitServer(
        binary=binary,
        folder=folder / "rabbitmq",
        log=folder / "rabbitmq.log",
        node=f"outhaul-test-{secrets.token_hex(4)}",
        password=secrets.token_hex(16),
        ports=BrokerPorts.choose(),
        statistics_interval_ms=500,
    )
    try:
        server.start()
    except LocalFailure as error:
        pytest.fail(f"RabbitMQ is installed but does not start: {error}\n{server.log.read_text()[-3000:]}")
    if server.process is not None:
        held.hold(server.process, epmd_port=server.ports.epmd)
    yield server.amqp_url(), server.management_url()
    server.stop(keep_data=False)


@pytest.fixture(scope="session")
def _broker_version(_broker_urls: tuple[str, str]) -> tuple[int, ...]:
    return broker_version(_broker_urls[1])


@pytest.fixture
def broker(_broker_urls: tuple[str, str], _broker_version: tuple[int, ...]) -> Iterator[BrokerUnderTest]:
    """A real RabbitMQ with a virtual host of this test's own."""
    amqp, management = _broker_urls
    vhost = f"test-{secrets.token_hex(6)}"
    user = urlsplit(amqp).username or "guest"
    with httpx.Client(base_url=management, timeout=30, trust_env=False) as api:
        api.put(f"/api/vhosts/{vhost}", json={"default_queue_type": "classic"}).raise_for_status()
        rights = {"configure": ".*", "write": ".*", "read": ".*"}
        api.put(f"/api/permissions/{vhost}/{quote(user, safe='')}", json=rights).raise_for_status()
        yield BrokerUnderTest(
            amqp_url=urlunsplit(urlsplit(amqp)._replace(path=f"/{vhost}")),
            management_url=management,
            vhost=vhost,
            version=_broker_version,
        )
        api.delete(f"/api/vhosts/{vhost}").raise_for_status()


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))

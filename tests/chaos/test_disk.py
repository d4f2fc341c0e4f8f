"""Disks that are full, for real: a database's tables, then a whole server with its log. Each ends with a ledger."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from chaos.conftest import Assemble
from chaos.disk import Disk, small_disk
from chaos.servers import Servers, new_database, start_postgres
from chaos.system import System, count, lasts
from conftest import missing
from outhaul_local.identity import server_identity
from outhaul_local.postgres import PostgresServer
from support import poll

pytestmark = pytest.mark.chaos

SWITCHES = 60  # of the log's file, 16 MB each: more than fits


@contextmanager
def bounded(folder: Path, megabytes: int) -> Iterator[Disk]:
    try:
        with small_disk(folder / f"small-{secrets.token_hex(3)}", server_identity(), megabytes=megabytes) as made:
            yield made
    except PermissionError as error:
        missing(f"the right to mount a file system ({error})")


@contextmanager
def database_on(server: PostgresServer, component: str, disk: Disk) -> Iterator[str]:
    """A database whose tables lie on that disk."""
    space = f"small_{secrets.token_hex(4)}"
    with psycopg.connect(server.url(), autocommit=True) as conn:
        conn.execute(f"CREATE TABLESPACE {space} LOCATION '{disk.folder}'".encode())
        dsn = new_database(server, component, tablespace=space)
        yield dsn
        conn.execute(f"DROP DATABASE {dsn.rpartition('/')[2]} WITH (FORCE)".encode())
        conn.execute(f"DROP TABLESPACE {space}".encode())


def test_a_producers_database_that_is_full_refuses_and_goes_on_when_there_is_room(
    assemble: Assemble, servers: Servers, servers_folder: Path
) -> None:
    with (
        bounded(servers_folder, 48) as disk,
        database_on(servers.order, "order", disk) as dsn,
        assemble((dsn, new_database(servers.waybill, "waybill"))) as system,
    ):
        system.start()
        with system.load(rate=120) as load:
            load.more(30)
            disk.fill()
            # What is free within the tables' last pages is used first.
            poll(lambda: 503 in load.problems, seconds=60, what="an order refused")
            assert load.problems[503]["type"] == "urn:outhaul:problem:cannot-commit"
            assert "No space left" in load.problems[503]["detail"]
            lasts(3)
            disk.free()
            load.more(60)
            system.settle(load.finish())
        assert system.spent_attempts() == 0


def test_a_consumers_database_that_is_full_spends_no_attempt_and_goes_on_when_there_is_room(
    assemble: Assemble, servers: Servers, servers_folder: Path
) -> None:
    with (
        bounded(servers_folder, 48) as disk,
        database_on(servers.waybill, "waybill", disk) as dsn,
        assemble((new_database(servers.order, "order"), dsn)) as system,
    ):
        system.start()
        with system.load(rate=120) as load:
            load.more(30)
            disk.fill()
            poll(lambda: stands_still(system), seconds=60, what="a consumer that waits for room")
            assert "OuthaulDeadLetter" not in system.alerts.names()
            disk.free()
            load.more(60)
            system.settle(load.finish())
        assert count(dsn, "SELECT count(*) FROM deliveries") == 0


def stands_still(system: System) -> bool:
    """Whether waybills have fallen a hundred behind, which at this rate takes a second or an outage."""
    return system.committed() - system.made() > 100


def use_up_the_log(server: PostgresServer) -> None:
    """New files of the log until there is no room for one."""
    with psycopg.connect(server.url(), autocommit=True) as conn:
        for _ in range(SWITCHES):
            conn.execute("SELECT pg_switch_wal(), txid_current()")


def test_a_server_whose_log_finds_no_room_is_started_again_and_no_order_is_lost(
    assemble: Assemble, servers: Servers, servers_folder: Path
) -> None:
    """PostgreSQL panics when it cannot write its log: it is down until there is room and somebody starts it."""
    with bounded(servers_folder, 600) as disk:
        server = start_postgres(disk.folder, "full")
        try:
            with assemble((new_database(server, "order"), new_database(servers.waybill, "waybill"))) as system:
                system.start()
                with system.load() as load:
                    load.more(30)
                    disk.fill()
                    with pytest.raises(psycopg.OperationalError):
                        use_up_the_log(server)
                    poll(lambda: 503 in load.problems, seconds=30, what="an order refused")
                    disk.free()
                    server.stop()
                    server.start()
                    load.more(30)
                    system.settle(load.finish())
                assert system.spent_attempts() == 0
        finally:
            server.stop()

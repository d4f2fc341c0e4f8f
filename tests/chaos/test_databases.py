"""Databases that are away, restarted, full up, read-only or locked. Each run ends with the ledger's verdict."""

from __future__ import annotations

from contextlib import ExitStack

import psycopg
import pytest
from psycopg import sql

from chaos.database_faults import detach_partitions, read_only
from chaos.ledger_reading import queues
from chaos.servers import Servers, kill
from chaos.system import System, count, lasts
from outhaul_waybill.topology import QUEUE
from support import poll

pytestmark = pytest.mark.chaos

MINUTES_SECONDS = 150.0


def exhaust(taken: ExitStack, dsn: str, most: int) -> str:
    """Connect until the server refuses; how it refused."""
    for _ in range(most + 1):
        try:
            taken.enter_context(psycopg.connect(dsn))
        except psycopg.OperationalError as error:
            return str(error)
    return ""


@pytest.mark.chaos_quick
def test_the_consumers_database_away_spends_no_attempt_and_loses_nothing(system: System, servers: Servers) -> None:
    system.start()
    with system.load() as load:
        load.more(30)
        servers.waybill.stop()
        load.more(150)
        lasts(3)
        servers.waybill.start()
        servers.hold()
        system.settle(load.finish())
    assert count(system.waybill_dsn, "SELECT count(*) FROM deliveries") == 0


@pytest.mark.timeout(400)
def test_the_consumers_database_away_for_minutes_causes_no_storm(system: System, servers: Servers) -> None:
    system.start()
    with system.load(rate=20) as load:
        load.more(30)
        servers.waybill.stop()
        to_broker, to_database = system.links.waybill_to_broker, system.links.waybill_to_database
        before = to_broker.accepted, to_database.accepted
        lasts(MINUTES_SECONDS)
        knocks = to_database.accepted - before[1]
        # The probe's backoff ends at seconds, not at once: about one connection in two seconds, from pool and consumer.
        assert knocks < len(system.waybills) * MINUTES_SECONDS, (
            f"{knocks} connections in {MINUTES_SECONDS:g} s to a database that is away"
        )
        assert to_broker.accepted - before[0] <= 2, "the broker is well, and nothing is wrong with its connections"
        waiting = {name: each.get("messages") for name, each in queues(system.broker).items()}
        assert not any(count for name, count in waiting.items() if name != QUEUE), waiting
        servers.waybill.start()
        servers.hold()
        system.settle(load.finish(), seconds=90)
    assert count(system.waybill_dsn, "SELECT count(*) FROM deliveries") == 0
    assert "OuthaulConsumerOutage" in system.alerts.names()


@pytest.mark.chaos_quick
def test_the_producers_database_killed_in_the_middle_of_orders_doubles_and_loses_none(
    system: System, servers: Servers
) -> None:
    system.start()
    with system.load() as load:
        for _ in range(2):
            load.more(40)
            # The postmaster's own: its children notice and end, and nothing is written in order.
            kill(servers.order)
            servers.order.start()
            servers.hold()
        load.more(20)
        system.settle(load.finish())
    assert system.spent_attempts() == 0


@pytest.mark.parametrize(("name", "table"), [("order", "orders"), ("waybill", "waybills")])
def test_a_database_killed_in_the_middle_of_transactions_doubles_and_loses_none(
    name: str, table: str, system: System, servers: Servers
) -> None:
    """They are in the middle for certain: each has inserted something and waits for a lock when the server dies."""
    system.start()
    server, dsn = getattr(servers, name), getattr(system, f"{name}_dsn")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with system.load() as load:
        for _ in range(2):
            load.more(40)
            lock = psycopg.connect(dsn)
            lock.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table)))
            poll(lambda: count(dsn, waiting) >= 1, what="a transaction that waits")
            kill(server)
            lock.close()
            server.start()
            servers.hold()
        load.more(20)
        system.settle(load.finish())
    assert system.spent_attempts() == 0
    assert count(system.waybill_dsn, "SELECT count(*) FROM deliveries") == 0


def test_a_database_restarted_in_order_again_and_again_costs_no_order(system: System, servers: Servers) -> None:
    system.start()
    with system.load() as load:
        for server in (servers.order, servers.waybill) * 2:
            load.more(30)
            server.stop()
            server.start()
            servers.hold()
        load.more(20)
        system.settle(load.finish())


def test_a_read_only_producers_database_refuses_and_publishes_nothing_of_it(system: System) -> None:
    system.start()
    name = system.order_dsn.rpartition("/")[2]
    with system.load() as load:
        load.more(30)
        with psycopg.connect(system.order_dsn, autocommit=True) as conn:
            conn.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        before = system.committed()
        lasts(4)
        assert system.committed() - before <= 1, "what was committed while sessions were ended"
        with psycopg.connect(system.order_dsn, autocommit=True) as conn:
            conn.execute("SET default_transaction_read_only = off")
            conn.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        load.more(30)
        system.settle(load.finish())
    assert system.spent_attempts() == 0


def test_a_read_only_consumers_database_spends_no_attempt_and_goes_on_when_it_takes_writes(system: System) -> None:
    system.start()
    with system.load() as load:
        load.more(30)
        with read_only(system.waybill_dsn):
            made = system.made()
            load.more(60)
            assert system.made() - made <= 1, "what was committed while sessions were ended"
        load.more(30)
        system.settle(load.finish())
    assert count(system.waybill_dsn, "SELECT count(*) FROM deliveries") == 0
    assert "OuthaulDeadLetter" not in system.alerts.names()


def test_connection_slots_exhausted_cost_no_order(system: System, servers: Servers) -> None:
    system.start()
    with system.load() as load:
        load.more(30)
        for server, dsn in ((servers.order, system.order_dsn), (servers.waybill, system.waybill_dsn)):
            with ExitStack() as taken, psycopg.connect(dsn, autocommit=True) as own:
                own.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                assert exhaust(taken, dsn, server.max_connections)
                lasts(4)
            load.more(20)
        system.settle(load.finish())


@pytest.mark.parametrize("table", ["outbox", "orders", "outbox_sent"])
def test_a_lock_held_on_a_producers_table_costs_no_order(table: str, system: System) -> None:
    system.start()
    with system.load() as load:
        load.more(30)
        with psycopg.connect(system.order_dsn) as conn:
            conn.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
            lasts(8)
        load.more(30)
        system.settle(load.finish())
    assert system.spent_attempts() == 0


@pytest.mark.parametrize("table", ["inbox", "waybills", "deliveries"])
def test_a_lock_held_on_a_consumers_table_spends_no_attempt(table: str, system: System) -> None:
    system.start()
    with system.load() as load:
        load.more(30)
        with psycopg.connect(system.waybill_dsn) as conn:
            conn.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
            lasts(8)
        load.more(30)
        system.settle(load.finish())


def test_missing_history_partitions_stop_neither_marking_nor_consuming(system: System) -> None:
    system.start()
    with system.load() as load:
        load.more(20)
        for dsn, table in ((system.order_dsn, "outbox_sent"), (system.waybill_dsn, "inbox")):
            assert detach_partitions(dsn, table)
        load.more(50)
        system.settle(load.finish())
        assert count(system.order_dsn, "SELECT count(*) FROM outbox_sent_default") > 0
        assert count(system.waybill_dsn, "SELECT count(*) FROM inbox_default") > 0

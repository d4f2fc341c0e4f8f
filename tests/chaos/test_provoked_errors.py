"""Errors of a database that are nobody's fault, provoked again and again. Each run ends with the ledger's verdict."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from chaos.database_faults import failing_inserts, failures
from chaos.system import System, count

pytestmark = pytest.mark.chaos

SQLSTATES = {"serialization": "40001", "deadlock": "40P01"}


@pytest.mark.parametrize("sqlstate", SQLSTATES.values(), ids=SQLSTATES.keys())
def test_a_serialization_failure_or_deadlock_of_the_consumer_spends_no_attempt(sqlstate: str, system: System) -> None:
    system.start()
    with system.load() as load:
        load.more(20)
        with failing_inserts(system.waybill_dsn, "waybills", sqlstate):
            load.more(200, seconds=60)
        load.more(20)
        system.settle(load.finish())
    assert failures(system.waybill_dsn) > 5
    assert count(system.waybill_dsn, "SELECT count(*) FROM deliveries") == 0


@pytest.mark.parametrize("sqlstate", SQLSTATES.values(), ids=SQLSTATES.keys())
def test_a_serialization_failure_or_deadlock_of_the_producer_doubles_and_loses_no_order(
    sqlstate: str, system: System
) -> None:
    system.start()
    with system.load() as load:
        load.more(20)
        with failing_inserts(system.order_dsn, "orders", sqlstate):
            load.more(100, seconds=60)
        load.more(20)
        system.settle(load.finish())
    assert failures(system.order_dsn) > 5
    assert system.spent_attempts() == 0


# What the database does by itself when two consumers count in the same rows in any order, by isolation level.
CONFLICTS = {
    "repeatable read": "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()",
    "read committed": "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
}


@pytest.mark.parametrize("isolation", CONFLICTS)
def test_consumers_that_conflict_for_real_spend_no_attempt_and_count_each_order_once(
    isolation: str, system: System
) -> None:
    """At REPEATABLE READ it is serialization failures, at READ COMMITTED deadlocks."""
    name = sql.Identifier(system.waybill_dsn.rpartition("/")[2])
    with psycopg.connect(system.waybill_dsn, autocommit=True) as conn:
        level = sql.Literal(isolation)
        conn.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = {}").format(name, level))
        conn.execute(sql.SQL("ALTER DATABASE {} SET deadlock_timeout = '50ms'").format(name))
        conn.execute("CREATE TABLE counters (name text PRIMARY KEY, number bigint NOT NULL DEFAULT 0)")
        conn.execute("INSERT INTO counters VALUES ('one'), ('other')")
    system.start(waybill_module="chaos.contending_waybill")
    with system.load(rate=100) as load:
        load.more(300, seconds=60)
        told = load.finish()
    system.settle(told, seconds=90)
    assert count(system.waybill_dsn, CONFLICTS[isolation]) > 2
    for each in ("one", "other"):
        counted = count(system.waybill_dsn, f"SELECT number FROM counters WHERE name = '{each}'")
        assert counted == len(told.acknowledged), "rolled back and done again, each counts once"
    assert count(system.waybill_dsn, "SELECT count(*) FROM deliveries") == 0

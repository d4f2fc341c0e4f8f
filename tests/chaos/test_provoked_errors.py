"""Errors of a database that are nobody's fault, provoked again and again. Each run ends with the ledger's verdict."""

from __future__ import annotations

import pytest

from chaos.database_faults import failing_inserts, failures
from chaos.system import System, count

pytestmark = pytest.mark.chaos

SQLSTATES = {"serialization": "40001", "deadlock": "40P01"}


@pytest.mark.parametrize("sqlstate", SQLSTATES.values(), ids=SQLSTATES.keys())
def test_a_serialization_failure_or_deadlock_of_the_consumer_spends_no_attempt(sqlstate: str, system: System) -> None:
    system.start(waybills=2)
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
    system.start(orders=2)
    with system.load() as load:
        load.more(20)
        with failing_inserts(system.order_dsn, "orders", sqlstate):
            load.more(100, seconds=60)
        load.more(20)
        system.settle(load.finish())
    assert failures(system.order_dsn) > 5
    assert system.spent_attempts() == 0

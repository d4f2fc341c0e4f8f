"""A transaction that somebody forgot: it holds back vacuum, people are told whose it is, and sending goes on."""

from __future__ import annotations

import psycopg
import pytest

from cluster.stage import SECONDS, Stage
from outhaul.tools.database_health import LONG_TRANSACTION_SECONDS
from support import poll


@pytest.mark.timeout(LONG_TRANSACTION_SECONDS + 300)
def test_a_transaction_that_is_left_open_is_named_with_its_remedy(stage: Stage) -> None:
    with psycopg.connect(stage.order, application_name="forgotten report") as conn:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        conn.execute("SELECT FROM outbox")
        pid = conn.info.backend_pid
        old = "SELECT clock_timestamp() - xact_start > make_interval(secs => %s) FROM pg_stat_activity WHERE pid = %s"
        poll(
            lambda: stage.query(stage.order, old, LONG_TRANSACTION_SECONDS, pid) == [(True,)],
            seconds=LONG_TRANSACTION_SECONDS + 30,
            what="the transaction to be old",
        )
        stage.record(20)
        outbox = stage.outbox()
        told = stage.tells(outbox, "VacuumHeldBack: DatabaseReachable")
        assert "forgotten report" in told
        assert f"SELECT pg_terminate_backend({pid})" in told
        stage.shows("outbox", outbox, ready="True", pending="0", stuck="0")
        assert stage.condition("outbox", outbox, "DatabaseReachable")["reason"] == "VacuumHeldBack"
        assert stage.depth() == stage.sent() == 20
    # What is wrong is examined again within a minute.
    poll(
        lambda: stage.condition("outbox", outbox, "DatabaseReachable")["reason"] != "VacuumHeldBack",
        seconds=SECONDS,
        what="the transaction's end to be seen",
    )

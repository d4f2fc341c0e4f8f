"""A lease shorter than the broker's slowest confirm, which is refused at start and forced here by a test setting."""

from __future__ import annotations

import pytest

from chaos.system import SENDER, System, count, lasts
from outhaul_waybill.topology import QUEUE
from support import poll
from support_amqp import Amqp, through_port

pytestmark = pytest.mark.chaos

LEASE_SECONDS = 1.0
SLOW_SECONDS = 8.0
ROWS = 10


def test_a_lease_shorter_than_the_slowest_confirm_sends_rows_again_until_it_comes_and_then_no_more(
    system: System,
) -> None:
    """Two senders take each other's rows for as long as no confirm comes. Nothing here loses its connection."""
    patient = through_port(system.broker.amqp_url, system.links.order_to_broker.port) + "?heartbeat=1m"
    system.start(
        orders=2,
        waybills=0,
        order_settings={
            **SENDER,
            "OUTHAUL_SENDER_CONFIRM_TIMEOUT": "1m",
            "OUTHAUL_TEST_SENDER_LEASE": f"{LEASE_SECONDS:g}s",
            "OUTHAUL_AMQP_URL": patient,
        },
    )
    for sender in system.orders:
        assert "is for tests alone" in sender.log.read_text(encoding="utf-8")
    with Amqp(system.broker) as amqp:
        with system.load(rate=20, clients=2) as load:
            load.more(20)  # both connections have proved themselves
            poll(lambda: system.pending() == 0, what="a quiet moment")
            system.links.order_to_broker.swallow_answers()
            load.more(ROWS)
            told = load.finish()
        lasts(SLOW_SECONDS)
        slow = system.pending()
        assert slow >= ROWS, "nothing is confirmed"
        before = amqp.depth(QUEUE)
        assert before > system.committed(), "rows are sent again while their confirm is under way"
        system.links.order_to_broker.heal()
        poll(lambda: system.pending() == 0, seconds=60, what="rows that are confirmed at last")
        copies = amqp.depth(QUEUE)
        lasts(4 * LEASE_SECONDS)
        assert amqp.depth(QUEUE) == copies, "the duplicates have ended"
        # Each of the two takes a row at most once in each lease.
        assert copies <= system.committed() + 2 * slow * (1 + (SLOW_SECONDS + 30) / LEASE_SECONDS)
    system.start(orders=0, waybills=2)
    system.settle(told)
    assert count(system.order_dsn, "SELECT count(*) FROM outbox_sent") == system.committed()
    assert system.spent_attempts() == 0

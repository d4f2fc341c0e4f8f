"""How a soak judges a round, on a broker that holds a message nobody acknowledges."""

from __future__ import annotations

import pytest

from chaos import soak_verdict
from chaos.ledger import Told
from chaos.ledger_reading import left_over
from chaos.soak_verdict import settle, shortcomings
from chaos.system import System
from outhaul_waybill.topology import EXCHANGE, QUEUE, ROUTING_KEY
from support import poll
from support_amqp import Amqp

pytestmark = pytest.mark.chaos


def test_what_stays_unacknowledged_until_the_deadline_is_a_breach_that_names_its_queue(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To whoever reads the queue it is empty, so the ledger's own account is whole."""
    monkeypatch.setattr(soak_verdict, "SETTLE_SECONDS", 2.0)
    place = f"queue {QUEUE}"
    with Amqp(system.broker) as amqp:
        amqp.publish(EXCHANGE, ROUTING_KEY, b"{}", message_id="held")
        poll(lambda: amqp.hold(QUEUE), what="the message taken and kept")
        poll(lambda: "unack" in left_over(system.order_dsn, system.broker).get(place, ""), what="the broker's word")
        verdict, left = settle(system, Told(), keys="%", letters=0)
    assert not verdict.violations()
    assert left == {place: "1 messages unacknowledged"}
    [breach] = shortcomings(Told(), verdict, left, letters=0)
    assert breach == f"{place} has 1 messages unacknowledged, 2 s after everything was mended"

"""Faults that last long enough for somebody to be told, and to be told again that they are over."""

from __future__ import annotations

import pytest

from chaos.broker_faults import deleted, put_back
from chaos.ledger_reading import queues
from chaos.system import System
from outhaul_waybill.topology import EXCHANGE, QUEUE, ROUTING_KEY
from support import poll
from support_amqp import Amqp
from support_proxy import Proxy

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]

ROUTE_SECONDS = 25.0  # the alert is due after 10
PART_SECONDS = 60.0  # the alert is due after 30


def told(system: System, name: str, status: str) -> bool:
    return any(each["labels"]["alertname"] == name and each["status"] == status for each in system.alerts.alerts)


def wait_told(system: System, name: str, *, seconds: float) -> None:
    poll(lambda: told(system, name, "firing"), seconds=seconds, what=f"word of {name}")


def wait_told_over(system: System, name: str) -> None:
    poll(lambda: told(system, name, "resolved"), seconds=30, what=f"word of the end of {name}")


@pytest.mark.parametrize("piece", ["binding", "exchange"])
def test_people_are_told_of_a_route_that_lacks_a_piece(piece: str, system: System) -> None:
    system.start()
    with system.load(rate=20) as load:
        load.more(10)
        if piece == "binding":
            with Amqp(system.broker) as amqp:
                amqp.unbind(QUEUE, EXCHANGE, ROUTING_KEY)
            wait_told(system, "OuthaulRouteBroken", seconds=ROUTE_SECONDS)
            put_back(system.broker)
        else:
            with deleted(system.broker, "exchanges", EXCHANGE):
                wait_told(system, "OuthaulRouteBroken", seconds=ROUTE_SECONDS)
        load.more(10)
        system.settle(load.finish())
    [alert, *_] = [each for each in system.alerts.alerts if each["labels"]["alertname"] == "OuthaulRouteBroken"]
    assert (alert["labels"]["exchange"], alert["labels"]["routing_key"]) == (EXCHANGE, ROUTING_KEY)
    wait_told_over(system, "OuthaulRouteBroken")


def test_people_are_told_of_a_delay_queue_that_is_missing(system: System) -> None:
    """The failing orders come before all others: in a batch with others they would be replayed at once, and succeed."""
    system.start(waybill_module="chaos.flaky_waybill")
    with Amqp(system.broker) as amqp:
        for name in queues(system.broker):
            if ".retry." in name:
                amqp.delete_queue(name)
    with system.load(prefix="flaky", rate=2, clients=1) as flaky:
        flaky.more(3)
        failing = flaky.finish()
    wait_told(system, "OuthaulRetryUnreachable", seconds=30)
    with system.load(rate=20) as load:
        load.more(10)
        put_back(system.broker)
        wait_told_over(system, "OuthaulRetryUnreachable")
        all_told = load.finish()
    all_told.attempted |= failing.attempted
    all_told.acknowledged.update(failing.acknowledged)
    system.settle(all_told, seconds=90)


def away(*links: Proxy) -> None:
    for proxy in links:
        proxy.stop()


def back(*links: Proxy) -> None:
    for proxy in links:
        proxy.start()


def test_people_are_told_of_a_broker_that_is_away(system: System) -> None:
    """The sender says so itself; the consumer by its readiness and its metrics, which rules watch."""
    system.start()
    links = system.links.order_to_broker, system.links.waybill_to_broker
    with system.load(rate=20) as load:
        load.more(10)
        away(*links)
        wait_told(system, "OuthaulBrokerUnreachable", seconds=PART_SECONDS)
        assert {each.answers("/readyz") for each in system.waybills} == {503}
        assert {each.answers("/readyz") for each in system.orders} == {200}
        back(*links)
        load.more(10)
        system.settle(load.finish())
    wait_told_over(system, "OuthaulBrokerUnreachable")


def test_people_are_told_of_databases_that_are_away(system: System) -> None:
    system.start()
    links = system.links.order_to_database, system.links.waybill_to_database
    with system.load(rate=20) as load:
        load.more(10)
        away(*links)
        wait_told(system, "OuthaulDatabaseUnreachable", seconds=PART_SECONDS)
        wait_told(system, "OuthaulConsumerOutage", seconds=PART_SECONDS)
        assert {each.answers("/readyz") for each in system.functions} == {503}
        back(*links)
        load.more(10)
        system.settle(load.finish())
    wait_told_over(system, "OuthaulDatabaseUnreachable")
    wait_told_over(system, "OuthaulConsumerOutage")

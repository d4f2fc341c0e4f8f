"""A broker that lacks a piece, is full, refuses, or is restarted. Each run ends with the ledger's verdict."""

from __future__ import annotations

from urllib.parse import quote

import httpx
import psycopg
import pytest

from chaos.broker_faults import forbidden
from chaos.function import Function
from chaos.ledger_reading import queues
from chaos.servers import Servers, kill
from chaos.system import System, lasts
from outhaul.broker_admin.topology_apply import apply
from outhaul_waybill.topology import EXCHANGE, QUEUE, ROUTING_KEY, TOPOLOGY
from support import poll
from support_amqp import Amqp, management

pytestmark = pytest.mark.chaos

FULL = {"pattern": f"^{QUEUE}$", "apply-to": "queues", "priority": 100}


def put_back(system: System) -> None:
    apply(TOPOLOGY, system.broker.amqp_url, system.broker.management_url)


def api(system: System, method: str, path: str, body: object = None) -> httpx.Response:
    with management(system.broker) as client:
        return client.request(method, f"/api/{path}", json=body).raise_for_status()


def connections(system: System) -> list[dict[str, str]]:
    """Those of the functions; none while there are fewer than they have: a sender one, a consumer two."""
    found: list[dict[str, str]] = api(system, "GET", f"vhosts/{vhost(system)}/connections").json()
    return found if len(found) >= len(system.orders) + 2 * len(system.waybills) else []


def vhost(system: System) -> str:
    return quote(system.broker.vhost, safe="")


def nothing_on_its_way(system: System) -> bool:
    """Whether every order whose message was sent has its waybill, and the queue is empty. Orders may go on."""
    with psycopg.connect(system.order_dsn) as conn:
        sent = conn.execute("SELECT order_id FROM orders WHERE message_id NOT IN (SELECT message_id FROM outbox)")
        orders = [order_id for (order_id,) in sent]
    with psycopg.connect(system.waybill_dsn) as conn:
        made = {order_id for (order_id,) in conn.execute("SELECT order_id FROM waybills")}
    return made.issuperset(orders) and not queues(system.broker)[QUEUE].get("messages")


@pytest.mark.chaos_quick
def test_a_binding_and_then_the_exchange_removed_and_put_back_cost_no_order(system: System) -> None:
    system.start()
    with Amqp(system.broker) as amqp, system.load() as load:
        load.more(20)
        amqp.unbind(QUEUE, EXCHANGE, ROUTING_KEY)
        load.more(50)
        poll(lambda: system.pending() >= 30, what="rows that wait")
        amqp.bind(QUEUE, EXCHANGE, ROUTING_KEY)
        load.more(20)
        api(system, "DELETE", f"exchanges/{vhost(system)}/{EXCHANGE}")
        load.more(50)
        poll(lambda: system.pending() >= 30, what="rows that wait")
        put_back(system)
        system.settle(load.finish())
    assert system.spent_attempts() == 0


def test_a_queue_deleted_and_put_back_costs_only_what_was_in_it_and_it_was_empty(system: System) -> None:
    """What a deleted queue held is gone: nothing keeps that but the broker. So it is deleted when it is empty."""
    system.start()
    with Amqp(system.broker) as amqp, system.load() as load:
        load.more(30)
        amqp.unbind(QUEUE, EXCHANGE, ROUTING_KEY)
        load.more(30)
        for _ in range(2):
            poll(lambda: nothing_on_its_way(system), seconds=60, what="what was on its way to arrive")
            lasts(2)  # the depth it was told is half a second old, or more
        amqp.delete_queue(QUEUE)
        load.more(30)
        put_back(system)
        for waybill in system.waybills:
            waybill.wait_ready()
        system.settle(load.finish())
    assert system.spent_attempts() == 0


@pytest.mark.chaos_quick
def test_a_queue_that_is_full_holds_orders_back_and_loses_none(system: System) -> None:
    system.start()
    # As the topology's own policy, but smaller; of two policies the one with the higher priority applies alone.
    with management(system.broker) as client:
        policies = client.get(f"/api/policies/{vhost(system)}").raise_for_status().json()
    own = next(each for each in policies if each["name"] == QUEUE)
    small = {**FULL, "pattern": own["pattern"], "definition": {**own["definition"], "max-length": 3}}
    with system.load() as load:
        load.more(20)
        for waybill in system.waybills:
            waybill.stop()
        api(system, "PUT", f"policies/{vhost(system)}/full", small)
        load.more(150)
        poll(lambda: system.pending() >= 30, what="rows that wait")
        for waybill in system.waybills:
            waybill.start()
        load.more(20)
        api(system, "DELETE", f"policies/{vhost(system)}/full")
        system.settle(load.finish())
    assert system.spent_attempts() == 0


def refused(functions: list[Function]) -> bool:
    """Whether the broker has told each of them that it may not."""
    return all("ACCESS_REFUSED" in each.log.read_text(encoding="utf-8") for each in functions)


@pytest.mark.parametrize("right", ["write", "read"])
def test_permissions_withdrawn_and_given_back_cost_no_order(right: str, system: System) -> None:
    system.start()
    with system.load() as load:
        load.more(20)
        poll(lambda: connections(system), what="the functions' connections")
        with forbidden(system.broker, right):
            if right == "write":
                poll(lambda: system.pending() >= 100, seconds=30, what="rows that wait")
            else:
                poll(lambda: system.committed() - system.made() >= 100, seconds=30, what="orders without a waybill")
            poll(lambda: refused(system.orders if right == "write" else system.waybills), what="a 403 in the logs")
        load.more(20)
        system.settle(load.finish())
    assert system.spent_attempts() == 0


@pytest.mark.chaos_quick
def test_connections_closed_by_an_administrator_again_and_again_cost_no_order(system: System) -> None:
    system.start()
    closed = 0
    with system.load() as load:
        for _ in range(3):
            load.more(30)
            # The management API learns of a connection only after a while.
            for connection in poll(lambda: connections(system), what="the functions' connections"):
                with management(system.broker) as client:
                    gone = client.delete(f"/api/connections/{quote(connection['name'], safe='')}")
                closed += gone.status_code == 204
        system.settle(load.finish())
    assert closed >= 3
    assert system.spent_attempts() == 0


def test_a_broker_killed_and_restarted_under_load_costs_no_order(system: System, servers: Servers) -> None:
    system.start()
    with system.load() as load:
        load.more(50)
        kill(servers.broker)
        load.more(50)
        servers.broker.start()
        servers.hold()
        load.more(20)
        system.settle(load.finish(), seconds=90)
    assert system.spent_attempts() == 0


def test_a_memory_alarm_stops_nobody_from_ordering(system: System, servers: Servers) -> None:
    system.start()
    with system.load() as load:
        load.more(20)
        servers.rabbitmqctl("set_vm_memory_high_watermark", "absolute", "1MB")
        try:
            load.more(150)
            poll(lambda: system.pending() >= 100, what="rows that wait")
        finally:
            servers.rabbitmqctl("set_vm_memory_high_watermark", "0.4")
        system.settle(load.finish())
    assert system.spent_attempts() == 0


def test_a_disk_alarm_stops_nobody_from_ordering(system: System, servers: Servers) -> None:
    system.start()
    with system.load() as load:
        load.more(20)
        servers.rabbitmqctl("set_disk_free_limit", "999999999999999")
        try:
            load.more(150)
            poll(lambda: system.pending() >= 100, what="rows that wait")
        finally:
            servers.rabbitmqctl("set_disk_free_limit", "50MB")
        system.settle(load.finish())
    assert system.spent_attempts() == 0


def test_a_dead_letter_queue_that_is_missing_or_comes_back_loses_no_letter(system: System) -> None:
    system.start()
    with Amqp(system.broker) as amqp, system.load() as load:
        load.more(10)
        amqp.delete_queue(f"{QUEUE}.dlq")
        load.told.injected.add("malformed")
        amqp.publish(EXCHANGE, ROUTING_KEY, b"{", message_id="malformed")
        load.more(50)
        put_back(system)
        system.settle(load.finish(), letters=1, seconds=90)

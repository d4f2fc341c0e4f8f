"""Orders over HTTP become waybills over HTTP: both functions, both databases and the broker are real."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from conftest import MakeDatabase
from function_process import FunctionProcess, running
from outhaul.broker_admin.topology_apply import apply
from outhaul_waybill.topology import EXCHANGE, QUEUE, ROUTING_KEY, TOPOLOGY
from support import BrokerUnderTest, poll
from support_amqp import Amqp, through_port
from support_proxy import Proxy

ORDER = {"customer": "Ada", "lines": [{"sku": "kettle", "quantity": 2, "unit_price_cents": 1999}]}


@dataclass(frozen=True, slots=True)
class System:
    """What stands before a function runs: two databases, and a broker with its topology."""

    order_dsn: str
    waybill_dsn: str
    broker: BrokerUnderTest
    folder: Path

    def order_function(self, **settings: str) -> AbstractContextManager[FunctionProcess]:
        given = {"OUTHAUL_ORDER_DATABASE_URL": self.order_dsn, "OUTHAUL_AMQP_URL": self.broker.amqp_url, **settings}
        return running("outhaul_order", self.folder, given)

    def waybill_function(self) -> AbstractContextManager[FunctionProcess]:
        given = {"OUTHAUL_WAYBILL_DATABASE_URL": self.waybill_dsn, "OUTHAUL_AMQP_URL": self.broker.amqp_url}
        return running("outhaul_waybill", self.folder, given)

    def orders(self) -> set[Any]:
        return {order for (order,) in _rows(self.order_dsn, "SELECT order_id FROM orders")}

    def waybills(self) -> list[Any]:
        return [order for (order,) in _rows(self.waybill_dsn, "SELECT order_id FROM waybills")]

    def unsent(self) -> int:
        return len(_rows(self.order_dsn, "SELECT FROM outbox"))

    def settle(self, orders: int, *, seconds: float = 30) -> None:
        """Until the ledger is whole: each committed order has exactly one waybill, and nothing waits to be sent."""
        poll(lambda: len(self.waybills()) >= orders and not self.unsent(), seconds=seconds, what="a whole ledger")
        waybills = self.waybills()
        assert len(waybills) == len(set(waybills))
        assert set(waybills) == self.orders()
        assert len(waybills) == orders


@pytest.fixture
def system(make_database: MakeDatabase, broker: BrokerUnderTest, tmp_path: Path) -> System:
    apply(TOPOLOGY, broker.amqp_url, broker.management_url)
    return System(make_database(("order",)), make_database(("waybill",)), broker, tmp_path)


def place(function: FunctionProcess, count: int, *, prefix: str = "order") -> list[str]:
    """Orders, each with its key, asked for again until they are accepted."""
    return [place_one(function, f"{prefix}-{number}") for number in range(count)]


def place_one(function: FunctionProcess, key: str) -> str:
    def accepted() -> str | None:
        try:
            answer = function.http.post("/orders", json=ORDER, headers={"Idempotency-Key": key})
        except httpx.TransportError:
            return None
        assert answer.status_code in {201, 409, 503}, answer.text
        return str(answer.json()["order_id"]) if answer.status_code == 201 else None

    order_id = poll(accepted, seconds=20, what=f"acceptance of {key}")
    assert order_id is not None
    return order_id


def _rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(query.encode()).fetchall()


def test_each_order_becomes_one_waybill(system: System) -> None:
    with system.order_function() as order, system.waybill_function() as waybill:
        order.wait_ready()
        waybill.wait_ready()
        ids = place(order, 50)
        system.settle(50)
        shown = order.http.get(f"/orders/{ids[0]}").json()
        assert shown["status"] == "sent"
        made = waybill.http.get(f"/waybills/{ids[0]}").json()
        assert made["message_id"] == shown["message_id"]
        assert made["customer"] == "Ada"
        assert (order.stop(), waybill.stop()) == (0, 0)


def test_orders_are_taken_while_the_broker_is_away_and_sent_when_it_is_back(system: System) -> None:
    parts = urlsplit(system.broker.amqp_url)
    with Proxy(parts.hostname or "", parts.port or 5672) as proxy:
        away = through_port(system.broker.amqp_url, proxy.port)
        with system.order_function(OUTHAUL_AMQP_URL=away) as order, system.waybill_function() as waybill:
            order.wait_ready()
            waybill.wait_ready()
            place(order, 5, prefix="before")
            system.settle(5)
            proxy.stop()
            ids = place(order, 20, prefix="during")
            assert order.http.get("/readyz").status_code == 200
            assert order.http.get(f"/orders/{ids[0]}").json()["status"] == "pending"
            proxy.start()
            system.settle(25, seconds=60)


def test_a_route_that_is_missing_holds_messages_back_until_it_is_there(system: System) -> None:
    with Amqp(system.broker) as amqp, system.order_function() as order, system.waybill_function() as waybill:
        amqp.unbind(QUEUE, EXCHANGE, ROUTING_KEY)
        order.wait_ready()
        waybill.wait_ready()
        ids = place(order, 5)
        poll(lambda: _rows(system.order_dsn, "SELECT FROM outbox WHERE last_error IS NOT NULL"), what="a reason")
        assert order.http.get(f"/orders/{ids[0]}").json()["status"] == "pending"
        amqp.bind(QUEUE, EXCHANGE, ROUTING_KEY)
        system.settle(5, seconds=60)


def test_functions_killed_while_orders_come_in_lose_and_double_nothing(system: System) -> None:
    # A short lease: what a killed sender held is taken over when it ends.
    settings = {"OUTHAUL_SENDER_LEASE": "7s", "OUTHAUL_SENDER_CONFIRM_TIMEOUT": "1s"}
    for round_number in range(3):
        with system.order_function(**settings) as order, system.waybill_function() as waybill:
            order.wait_ready()
            waybill.wait_ready()
            place(order, 40, prefix=f"round-{round_number}")
            order.process.kill()
            waybill.process.kill()
    with system.order_function(**settings) as order, system.waybill_function() as waybill:
        order.wait_ready()
        waybill.wait_ready()
        # The clients ask again with their keys: the same orders, no new ones.
        assert place(order, 40, prefix="round-2")
        system.settle(120, seconds=60)


def test_a_restart_under_load_dead_letters_nothing(system: System) -> None:
    with system.order_function() as order:
        order.wait_ready()
        for round_number in range(3):
            with system.waybill_function() as waybill:
                waybill.wait_ready()
                place(order, 30, prefix=f"round-{round_number}")
                assert waybill.stop() == 0
        with system.waybill_function() as waybill:
            waybill.wait_ready()
            system.settle(90)
        assert order.stop() == 0
    with Amqp(system.broker) as amqp:
        assert amqp.depth(f"{QUEUE}.dlq") == 0

"""Both functions behind a real pgbouncer in transaction mode, told nothing of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import psycopg
import pytest

from conftest import MakeDatabase
from function_process import running
from outhaul.broker_admin.topology_apply import apply
from outhaul_waybill.topology import TOPOLOGY
from support import BrokerUnderTest, poll
from support_pgbouncer import pooled

pytestmark = pytest.mark.needs("pgbouncer")
ORDER = {"customer": "Ada", "lines": [{"sku": "kettle", "quantity": 2, "unit_price_cents": 1999}]}


@pytest.fixture
def order_dsn(make_database: MakeDatabase) -> str:
    return make_database(("order",))


def test_orders_are_taken_and_shown(order_dsn: str, servers_folder: Path, tmp_path: Path) -> None:
    settings = {"OUTHAUL_AMQP_URL": "amqp://guest:guest@127.0.0.1:1/%2F", "OUTHAUL_DATABASE_POOL_SIZE": "16"}
    with ExitStack() as stack:
        settings["OUTHAUL_ORDER_DATABASE_URL"] = stack.enter_context(pooled(order_dsn, servers_folder))
        function = stack.enter_context(running("outhaul_order", tmp_path, settings))
        clients = stack.enter_context(ThreadPoolExecutor(16))
        function.wait_ready()

        def place(number: int) -> httpx.Response:
            # Every other order is asked for twice.
            return function.http.post("/orders", json=ORDER, headers={"Idempotency-Key": f"order-{number // 2}"})

        answers = list(clients.map(place, range(200)))
        assert {answer.status_code for answer in answers} <= {201, 409}
        again = list(clients.map(place, range(0, 200, 2)))
        assert {answer.status_code for answer in again} == {201}
        assert len({answer.json()["order_id"] for answer in again}) == 100
        shown = clients.map(lambda answer: function.http.get(answer.headers["location"]).status_code, again)
        assert set(shown) == {200}
        assert function.stop() == 0
    assert count(order_dsn, "orders") == count(order_dsn, "outbox") == 100


def test_orders_become_waybills(
    order_dsn: str, make_database: MakeDatabase, broker: BrokerUnderTest, servers_folder: Path, tmp_path: Path
) -> None:
    apply(TOPOLOGY, broker.amqp_url, broker.management_url)
    waybill_dsn = make_database(("waybill",))
    with ExitStack() as stack:
        order_settings = {
            "OUTHAUL_AMQP_URL": broker.amqp_url,
            "OUTHAUL_ORDER_DATABASE_URL": stack.enter_context(pooled(order_dsn, servers_folder)),
        }
        waybill_settings = {
            "OUTHAUL_AMQP_URL": broker.amqp_url,
            "OUTHAUL_WAYBILL_DATABASE_URL": stack.enter_context(pooled(waybill_dsn, servers_folder)),
        }
        order = stack.enter_context(running("outhaul_order", tmp_path, order_settings))
        # Two consumers, so that statements do change their server connections.
        waybills = [stack.enter_context(running("outhaul_waybill", tmp_path, waybill_settings)) for _ in range(2)]
        clients = stack.enter_context(ThreadPoolExecutor(8))
        for function in (order, *waybills):
            function.wait_ready()
        answers = list(clients.map(lambda _: order.http.post("/orders", json=ORDER), range(200)))
        assert {answer.status_code for answer in answers} == {201}
        poll(lambda: count(waybill_dsn, "waybills") == 200, seconds=30, what="200 waybills")
        assert waybills[0].http.get(f"/waybills/{answers[0].json()['order_id']}").status_code == 200
        assert [function.stop() for function in (order, *waybills)] == [0, 0, 0]
    assert count(waybill_dsn, "inbox") == 200
    assert count(order_dsn, "outbox") == 0


def count(dsn: str, table: str) -> int:
    with psycopg.connect(dsn) as conn:
        row = conn.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    assert row is not None
    return int(row[0])

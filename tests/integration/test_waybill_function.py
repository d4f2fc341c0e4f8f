"""The waybill function as a real process, with a real database and a real broker."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pika
import psycopg
import pytest

from conftest import MakeDatabase
from function_process import FunctionProcess, command, environment, running
from outhaul.broker_admin.topology_apply import apply
from outhaul.events import encode
from outhaul_waybill.topology import EXCHANGE, QUEUE, ROUTING_KEY, TOPOLOGY
from support import BrokerUnderTest, poll
from support_amqp import Amqp, through_port
from support_proxy import Proxy
from webhook_support import webhook

MODULE = "outhaul_waybill"
LINE = {"sku": "kettle", "quantity": 2, "unit_price_cents": 1999}


@pytest.fixture
def dsn(make_database: MakeDatabase) -> str:
    return make_database(("waybill",))


@pytest.fixture
def settings(dsn: str, broker: BrokerUnderTest) -> dict[str, str]:
    apply(TOPOLOGY, broker.amqp_url, broker.management_url)
    return {"OUTHAUL_WAYBILL_DATABASE_URL": dsn, "OUTHAUL_AMQP_URL": broker.amqp_url}


@pytest.fixture
def function(tmp_path: Path, settings: dict[str, str]) -> Iterator[FunctionProcess]:
    with running(MODULE, tmp_path, settings) as process:
        process.wait_ready()
        yield process


@pytest.fixture
def amqp(broker: BrokerUnderTest) -> Iterator[Amqp]:
    with Amqp(broker) as amqp:
        yield amqp


def message_id(dsn: str) -> UUID:
    """A UUIDv7 made by the database's clock."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute("SELECT extract(epoch FROM clock_timestamp())").fetchone()
    assert row is not None
    return UUID(int=int(row[0] * 1000) << 80 | 7 << 76 | 2 << 62 | uuid4().int & (1 << 62) - 1)


def message(dsn: str, order_id: UUID, *, sequence: int = 1, **data: Any) -> tuple[UUID, bytes]:
    """The event of an order, as the order function's sender would publish it."""
    event_id = message_id(dsn)
    payload = {"order_id": str(order_id), "customer": "Ada", "lines": [LINE], "total_cents": 3998, **data}
    body = encode(
        message_id=event_id,
        seq=sequence,
        event_type="dev.outhaul.order.created.v1",
        source="outhaul/order",
        aggregate_id=str(order_id),
        created_at=datetime.now(UTC),
        payload=json.dumps(payload).encode(),
    )
    return event_id, body


def publish(amqp: Amqp, event_id: UUID, body: bytes) -> None:
    properties = pika.BasicProperties(message_id=str(event_id), delivery_mode=2)
    amqp._channel.basic_publish(EXCHANGE, ROUTING_KEY, body, properties, mandatory=True)


def waybill_of(function: FunctionProcess, order_id: UUID) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        answer = function.http.get(f"/waybills/{order_id}")
        return answer.json() if answer.status_code == 200 else None

    waybill = poll(found, what=f"a waybill for {order_id}")
    assert waybill is not None
    return waybill


def count(dsn: str) -> int:
    with psycopg.connect(dsn) as conn:
        row = conn.execute("SELECT count(*) FROM waybills").fetchone()
    assert row is not None
    return int(row[0])


def test_an_order_becomes_one_waybill_however_often_it_is_delivered(
    function: FunctionProcess, dsn: str, amqp: Amqp
) -> None:
    order_id = uuid4()
    event_id, body = message(dsn, order_id, sequence=7)
    for _ in range(3):
        publish(amqp, event_id, body)
    waybill = waybill_of(function, order_id)
    assert UUID(waybill.pop("waybill_id")).version == 4
    assert waybill.pop("created_at")
    assert waybill == {
        "order_id": str(order_id),
        "customer": "Ada",
        "lines": [{"sku": "kettle", "quantity": 2}],
        "message_id": str(event_id),
        "sequence": 7,
    }
    duplicates = 'outhaul_inbox_consumed_total{result="duplicate"} 2.0'
    poll(lambda: duplicates in function.http.get("/metrics").text, what="two duplicates")
    assert count(dsn) == 1


def test_a_second_message_for_an_order_is_a_dead_letter_and_its_neighbours_are_not(
    function: FunctionProcess, dsn: str, amqp: Amqp
) -> None:
    order_id = uuid4()
    publish(amqp, *message(dsn, order_id))
    waybill_of(function, order_id)
    second, body = message(dsn, order_id)
    others = [uuid4() for _ in range(5)]
    for other in others:
        publish(amqp, *message(dsn, other))
    publish(amqp, second, body)
    [(properties, dead)] = amqp.take("outhaul.waybill.dlq", 1)
    assert dead == body
    assert properties.message_id == str(second)
    assert properties.headers["x-outhaul-reason"] == "unique-violation"
    assert properties.headers["x-outhaul-routing-key"] == ROUTING_KEY
    for other in others:
        waybill_of(function, other)
    assert count(dsn) == 6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"customer": "A\x00"}, "invalid-data"),
        ({"customer": "\ud800"}, "invalid-data"),
        ({"lines": []}, "invalid-data"),
        ({"lines": [{**LINE, "quantity": 2**70}]}, "invalid-data"),
    ],
)
def test_an_order_that_cannot_be_stored_is_a_dead_letter_with_its_reason(
    function: FunctionProcess, dsn: str, amqp: Amqp, change: dict[str, Any], reason: str
) -> None:
    publish(amqp, *message(dsn, uuid4(), **change))
    [(properties, _)] = amqp.take("outhaul.waybill.dlq", 1)
    assert properties.headers["x-outhaul-reason"] == reason
    assert function.http.get("/readyz").status_code == 200
    assert count(dsn) == 0


def test_people_are_told_of_a_dead_letter(tmp_path: Path, settings: dict[str, str], dsn: str, amqp: Amqp) -> None:
    with webhook() as told, ExitStack() as stack:
        given = {**settings, "OUTHAUL_ALERT_WEBHOOK_URL": told.url}
        process = stack.enter_context(running(MODULE, tmp_path, given))
        process.wait_ready()
        publish(amqp, *message(dsn, uuid4(), lines=[]))
        poll(lambda: "OuthaulDeadLetter" in told.names(), what="an alert")
        [alert] = told.alerts
        assert alert["labels"]["service"] == "outhaul-waybill"
        assert alert["labels"]["queue"] == QUEUE
        assert process.stop() == 0


def test_an_unknown_waybill_is_a_404_and_the_rest_answers(function: FunctionProcess) -> None:
    for order_id in (str(uuid4()), "x"):
        answer = function.http.get(f"/waybills/{order_id}")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["field"] == "order_id"
    assert function.http.post("/waybills/x").status_code == 405
    assert function.http.get("/").status_code == 404
    assert function.http.get("/healthz").json() == {"status": "ok"}
    document = function.http.get("/openapi.json").json()
    assert set(document["paths"]) == {"/waybills/{order_id}", "/healthz", "/readyz", "/metrics", "/openapi.json"}


def test_ready_means_consuming(tmp_path: Path, settings: dict[str, str], dsn: str, amqp: Amqp) -> None:
    parts = urlsplit(settings["OUTHAUL_AMQP_URL"])
    with Proxy(parts.hostname or "", parts.port or 5672) as proxy:
        proxy.stop()
        away = {**settings, "OUTHAUL_AMQP_URL": through_port(settings["OUTHAUL_AMQP_URL"], proxy.port)}
        with running(MODULE, tmp_path, away) as process:
            process.wait_alive()
            ready = process.http.get("/readyz")
            assert ready.status_code == 503
            assert "not consuming" in ready.json()["detail"]
            proxy.start()
            process.wait_ready(seconds=40)
            order_id = uuid4()
            publish(amqp, *message(dsn, order_id))
            waybill_of(process, order_id)
            assert process.stop() == 0


def test_it_starts_without_the_database_and_takes_nothing_until_it_is_there(
    tmp_path: Path, settings: dict[str, str], dsn: str, amqp: Amqp
) -> None:
    parts = urlsplit(dsn)
    with Proxy(parts.hostname or "", parts.port or 5432) as proxy:
        proxy.stop()
        order_id = uuid4()
        publish(amqp, *message(dsn, order_id))
        away = {**settings, "OUTHAUL_WAYBILL_DATABASE_URL": through_port(dsn, proxy.port)}
        with running(MODULE, tmp_path, away) as process:
            process.wait_alive()
            assert process.http.get("/readyz").status_code == 503
            proxy.start()
            process.wait_ready(seconds=40)
            waybill_of(process, order_id)
            assert process.stop() == 0
    assert amqp.depth("outhaul.waybill.dlq") == 0


def test_sigterm_ends_it_with_0_and_leaves_nothing_undone(function: FunctionProcess, dsn: str, amqp: Amqp) -> None:
    orders = [uuid4() for _ in range(300)]
    for order_id in orders:
        publish(amqp, *message(dsn, order_id))
    poll(lambda: count(dsn) > 0, what="the first waybills")
    assert function.stop() == 0
    # Every message was either made into a waybill and acknowledged, or is still there.
    poll(lambda: count(dsn) + amqp.depth(QUEUE) == len(orders), what="a whole ledger")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"OUTHAUL_WAYBILL_DATABASE_URL": ""}, "OUTHAUL_WAYBILL_DATABASE_URL"),
        ({"OUTHAUL_AMQP_URL": "amqp://127.0.0.1:broker"}, "OUTHAUL_AMQP_URL"),
        ({"OUTHAUL_CONSUMER_BATCH_SIZE": "0"}, "OUTHAUL_CONSUMER_BATCH_SIZE"),
        ({"OUTHAUL_CONSUMER_RETENTION": "1h"}, "OUTHAUL_CONSUMER_RETENTION"),
        ({"OUTHAUL_ALERT_WEBHOOK_URL": "ftp://x"}, "OUTHAUL_ALERT_WEBHOOK_URL"),
    ],
)
def test_a_bad_setting_is_refused_at_start_in_one_line(changes: dict[str, str], named: str) -> None:
    good = {
        "OUTHAUL_WAYBILL_DATABASE_URL": "postgresql://127.0.0.1:1/x",
        "OUTHAUL_AMQP_URL": "amqp://guest:guest@127.0.0.1:1/%2F",
        "OUTHAUL_HTTP_PORT": "0",
    }
    ended = subprocess.run(
        command(MODULE), env=environment({**good, **changes}), capture_output=True, text=True, timeout=20, check=False
    )
    assert ended.returncode == 2
    assert named in ended.stderr
    assert ended.stderr.count("\n") == 1

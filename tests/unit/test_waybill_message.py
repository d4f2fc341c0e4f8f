"""What the waybill function takes for an order, and the names it stands under on the broker."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import msgspec
import pytest

from outhaul_order import models as order_models
from outhaul_order.validation import parse_order
from outhaul_waybill.models import ORDER_CREATED, OrderCreated
from outhaul_waybill.topology import EXCHANGE, QUEUE, ROUTING_KEY, TOPOLOGY

LINE = {"sku": "kettle", "quantity": 2, "unit_price_cents": 1999}
DATA = {
    "order_id": str(uuid4()),
    "customer": "Ada",
    "lines": [LINE],
    "total_cents": 3998,
}


def with_line(**members: Any) -> dict[str, Any]:
    return {**DATA, "lines": [{**LINE, **members}]}


def test_what_the_order_function_sends_is_what_the_waybill_function_takes() -> None:
    body = b'{"customer":"Ad\\u00e9","lines":[{"sku":"kettle","quantity":2,"unit_price_cents":1999}]}'
    order, total_cents = parse_order(body)
    sent = msgspec.json.encode(order_models.OrderCreated(uuid4(), order.customer, order.lines, total_cents))
    taken = msgspec.convert(msgspec.json.decode(sent), OrderCreated)
    assert taken.customer == "Adé"
    assert [(line.sku, line.quantity) for line in taken.lines] == [("kettle", 2)]
    assert (order_models.EVENT_TYPE, order_models.EXCHANGE, order_models.ROUTING_KEY) == (
        ORDER_CREATED,
        EXCHANGE,
        ROUTING_KEY,
    )


def test_fields_it_does_not_know_are_none_of_its_business() -> None:
    assert msgspec.convert({**DATA, "gift": True}, OrderCreated).customer == "Ada"


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "order",
        {},
        {**DATA, "order_id": 7},
        {**DATA, "order_id": "x"},
        {**DATA, "customer": ""},
        {**DATA, "customer": "A\x00"},
        {**DATA, "customer": "\ud800"},
        {**DATA, "customer": "A" * 1001},
        {**DATA, "lines": []},
        {**DATA, "lines": {}},
        with_line(sku="\x00"),
        with_line(quantity=0),
        with_line(quantity=-1),
        with_line(quantity=2**63),
        with_line(quantity="2"),
        with_line(unit_price_cents=-1),
    ],
)
def test_data_the_table_could_not_hold_is_refused(data: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(data, OrderCreated)


def test_the_topology_has_the_names_others_rely_on() -> None:
    assert QUEUE == "outhaul.waybill"
    assert {exchange.name: exchange.kind for exchange in TOPOLOGY.exchanges} == {
        "outhaul.events": "topic",
        "outhaul.retry": "direct",
        "outhaul.dlx": "direct",
    }
    assert {queue.name for queue in TOPOLOGY.queues} == {
        "outhaul.waybill",
        "outhaul.waybill.dlq",
        "outhaul.waybill.retry.5s",
        "outhaul.waybill.retry.30s",
        "outhaul.waybill.retry.5m",
    }
    assert ("outhaul.events", "outhaul.waybill", "order.created") in {
        (binding.exchange, binding.queue, binding.routing_key) for binding in TOPOLOGY.bindings
    }

from __future__ import annotations

import pytest

from outhaul.broker_admin.live_routes import LiveBinding, LiveSource, leads_to_a_queue


def to_queue(routing_key: str) -> LiveBinding:
    return LiveBinding("q", False, routing_key)


def to_exchange(name: str, routing_key: str) -> LiveBinding:
    return LiveBinding(name, True, routing_key)


SOURCES = {
    "topic": LiveSource("topic", (to_queue("order.*"), to_queue("#.paid"))),
    "direct": LiveSource("direct", (to_queue("order.created"),)),
    "fanout": LiveSource("fanout", (to_queue(""),)),
    "headers": LiveSource("headers", (to_queue(""),)),
    "x-delayed-message": LiveSource("x-delayed-message", (to_queue("other"),)),
    "alone": LiveSource("fanout", ()),
    "on": LiveSource("topic", (to_exchange("direct", "order.#"),)),
    "round": LiveSource("topic", (to_exchange("round", "#"), to_exchange("alone", "#"))),
    "gone": LiveSource("fanout", (to_exchange("nowhere", ""),)),
    "caught": LiveSource("direct", (), alternate="fanout"),
    "uncaught": LiveSource("direct", (), alternate="alone"),
}


@pytest.mark.parametrize(
    ("exchange", "routing_key", "leads"),
    [
        ("topic", "order.created", True),
        ("topic", "order.created.v1", False),
        ("topic", "invoice.paid", True),
        ("topic", "paid", True),
        ("direct", "order.created", True),
        ("direct", "order.*", False),
        ("fanout", "anything", True),
        ("alone", "anything", False),
        ("headers", "anything", True),
        ("x-delayed-message", "anything", True),
        ("on", "order.created", True),
        ("on", "order.paid", False),
        ("round", "order.created", False),
        ("gone", "order.created", False),
        ("caught", "order.created", True),
        ("uncaught", "order.created", False),
        ("nowhere", "order.created", False),
    ],
)
def test_a_message_arrives_where_the_bindings_lead(exchange: str, routing_key: str, leads: bool) -> None:
    assert leads_to_a_queue(SOURCES.get, exchange, routing_key) is leads

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outhaul.broker_admin.routes import consumer_queues, leads_to, topic_matches
from outhaul.topology import Binding, Exchange, Queue, Topology, consumer_topology

words = st.lists(st.sampled_from(["a", "b", ""]), min_size=1, max_size=6)
patterns = st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("order.created", "order.created", True),
        ("order.created", "order.created.v1", False),
        ("order.*", "order.created", True),
        ("order.*", "order", False),
        ("order.#", "order", True),
        ("order.#", "order.created.v1", True),
        ("#", "anything.at.all", True),
        ("#.created", "created", True),
        ("*.created.#", "order.created", True),
        ("*.created.#", "created", False),
        ("", "", True),
    ],
)
def test_a_pattern_matches_as_amqp_says(pattern: str, key: str, expected: bool) -> None:
    assert topic_matches(pattern.split("."), key.split(".")) is expected


@given(patterns, words)
def test_matching_agrees_with_a_regular_expression(pattern: list[str], key: list[str]) -> None:
    each = {"*": r"[^.]*\.", "#": r"(?:[^.]*\.)*"}
    expression = "".join(each.get(word, re.escape(word) + r"\.") for word in pattern)
    assert topic_matches(pattern, key) == bool(re.fullmatch(expression, "".join(f"{word}." for word in key)))


def test_only_bound_routes_lead_to_the_queue() -> None:
    topology = consumer_topology("shop.waybill", [("shop.events", "order.*")])
    arrives = leads_to(topology, "shop.waybill")
    assert arrives("shop.events", "order.created")
    assert not arrives("shop.events", "payment.made")
    assert not arrives("other.events", "order.created")
    # The retry exchange is direct and bound by the queue's own name.
    assert arrives("outhaul.retry", "shop.waybill")
    assert not arrives("outhaul.retry", "shop.#")


def test_a_fanout_exchange_takes_any_key() -> None:
    topology = Topology(
        exchanges=frozenset({Exchange("all", "fanout")}),
        queues=frozenset({Queue("q")}),
        bindings=frozenset({Binding("all", "q", "")}),
    )
    assert leads_to(topology, "q")("all", "whatever")


def test_the_consumers_queue_is_told_from_its_tiers_and_its_dead_letters() -> None:
    assert consumer_queues(consumer_topology("shop.waybill", [("e", "k")])) == ["shop.waybill"]

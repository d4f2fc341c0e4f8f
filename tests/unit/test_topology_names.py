"""The topology as data: its names, what each policy says, and what contradicts itself."""

import pytest

from outhaul.errors import ConfigurationError
from outhaul.retry import Retry
from outhaul.topology import (
    Binding,
    Exchange,
    Policy,
    Queue,
    Topology,
    consumer_topology,
    merged,
    producer_topology,
)

WAYBILL = consumer_topology("outhaul.waybill", [("outhaul.events", "order.created")])
OLD, NEW = (3, 10, 8), (4, 3, 6)


def policy(queue: str, topology: Topology = WAYBILL) -> Policy:
    [found] = [policy for policy in topology.policies if policy.queue == queue]
    return found


def test_a_consumer_has_the_names_that_people_and_tools_rely_on() -> None:
    assert WAYBILL.exchanges == {
        Exchange("outhaul.events", "topic"),
        Exchange("outhaul.dlx", "direct"),
        Exchange("outhaul.retry", "direct"),
    }
    assert {queue.name for queue in WAYBILL.queues} == {
        "outhaul.waybill",
        "outhaul.waybill.dlq",
        "outhaul.waybill.retry.5s",
        "outhaul.waybill.retry.30s",
        "outhaul.waybill.retry.5m",
    }
    assert WAYBILL.bindings == {
        Binding("outhaul.events", "outhaul.waybill", "order.created"),
        Binding("outhaul.retry", "outhaul.waybill", "outhaul.waybill"),
        Binding("outhaul.dlx", "outhaul.waybill.dlq", "outhaul.waybill"),
        Binding("outhaul.retry", "outhaul.waybill.retry.5s", "outhaul.waybill.retry.5s"),
        Binding("outhaul.retry", "outhaul.waybill.retry.30s", "outhaul.waybill.retry.30s"),
        Binding("outhaul.retry", "outhaul.waybill.retry.5m", "outhaul.waybill.retry.5m"),
    }


def test_the_consumers_side_uses_the_same_names() -> None:
    for delays in ((5.0, 30.0, 300.0), (0.25, 90.0, 7200.0)):
        topology = consumer_topology("q", [("e", "k")], retry_delays_seconds=delays)
        tiers = {Retry(delays).tier("q", failed) for failed in range(1, 8)}
        assert tiers == {queue.name for queue in topology.queues if ".retry." in queue.name}


def test_the_main_queue_loses_nothing() -> None:
    assert policy("outhaul.waybill").definition_for(NEW) == {
        "dead-letter-exchange": "outhaul.dlx",
        "dead-letter-routing-key": "outhaul.waybill",
        "dead-letter-strategy": "at-least-once",
        "overflow": "reject-publish",
        "max-length": 1_000_000,
        "delivery-limit": 1000,
        "consumer-timeout": 1_800_000,
        "queue-leader-locator": "balanced",
    }


def test_a_tier_gives_back_to_the_main_queue_after_its_time() -> None:
    assert policy("outhaul.waybill.retry.5s").definition_for(NEW) == {
        "dead-letter-exchange": "outhaul.retry",
        "dead-letter-routing-key": "outhaul.waybill",
        "dead-letter-strategy": "at-least-once",
        "overflow": "reject-publish",
        "max-length": 1_000_000,
        "message-ttl": 5000,
        "delivery-limit": -1,
        "queue-leader-locator": "balanced",
    }


def test_the_dead_letter_queue_keeps_what_it_has() -> None:
    assert policy("outhaul.waybill.dlq").definition_for(NEW) == {
        "overflow": "reject-publish",
        "max-length": 1_000_000,
        "delivery-limit": -1,
        "queue-leader-locator": "balanced",
    }


def test_an_older_broker_is_not_told_what_it_refuses() -> None:
    assert "consumer-timeout" not in policy("outhaul.waybill").definition_for(OLD)
    assert policy("outhaul.waybill").definition_for(OLD)["delivery-limit"] == 1000
    assert "delivery-limit" not in policy("outhaul.waybill.dlq").definition_for(OLD)
    assert policy("outhaul.waybill").definition_for((3, 12, 0))["consumer-timeout"] == 1_800_000


def test_a_policy_matches_its_queue_alone() -> None:
    assert policy("outhaul.waybill").pattern == r"^outhaul\.waybill$"


def test_two_consumers_stand_on_one_broker() -> None:
    other = consumer_topology("outhaul.invoice", [("outhaul.events", "order.#")])
    both = WAYBILL | other | WAYBILL
    assert both == WAYBILL | other
    assert len(both.queues) == 10
    assert merged([]) == Topology()


@pytest.mark.parametrize(
    "other",
    [
        producer_topology("outhaul.events", kind="fanout"),
        consumer_topology("outhaul.waybill", [("outhaul.events", "order.created")], max_length=5),
    ],
)
def test_a_contradiction_is_refused(other: Topology) -> None:
    with pytest.raises(ConfigurationError, match="topology"):
        _ = WAYBILL | other


def test_what_is_bound_must_be_declared() -> None:
    with pytest.raises(ConfigurationError, match="'nowhere'.*not declared"):  # noqa: RUF043 - a pattern
        Topology(queues=frozenset({Queue("q")}), bindings=frozenset({Binding("nowhere", "q", "k")}))


@pytest.mark.parametrize("name", ["", "amq.mine", "a\x00b", "x" * 256, "line\nbreak"])
def test_a_name_the_broker_would_refuse_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError):
        consumer_topology(name, [("e", "k")])
    with pytest.raises(ConfigurationError):
        consumer_topology("q", [(name, "k")])


def test_a_queue_name_must_leave_room_for_its_tiers() -> None:
    with pytest.raises(ConfigurationError, match="255 bytes"):
        consumer_topology("x" * 250, [("e", "k")])


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="would receive nothing"):
        consumer_topology("q", [])
    for delay in (0.0, -1.0, 1e9, float("nan")):
        with pytest.raises(ConfigurationError, match="retry_delays_seconds"):
            consumer_topology("q", [("e", "k")], retry_delays_seconds=(delay,))
    with pytest.raises(ConfigurationError, match="max_length"):
        consumer_topology("q", [("e", "k")], max_length=0)
    with pytest.raises(ConfigurationError, match="consumer_timeout"):
        consumer_topology("q", [("e", "k")], consumer_timeout_seconds=1)
    with pytest.raises(ConfigurationError, match="kind of exchange"):
        Exchange("e", "tpoic")  # type: ignore[arg-type]  # what a file may hold

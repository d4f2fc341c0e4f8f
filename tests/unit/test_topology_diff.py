"""What differs, told from values alone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from outhaul.broker_admin.topology_diff import (
    Difference,
    LiveExchange,
    LivePolicy,
    LiveQueue,
    Snapshot,
    compare,
)
from outhaul.topology import Binding, Topology, consumer_topology

TOPOLOGY = consumer_topology("q", [("e", "k")], retry_delays_seconds=(5,))
VERSION = (4, 3, 6)


def live(topology: Topology = TOPOLOGY, version: tuple[int, ...] = VERSION) -> Snapshot:
    """A broker that holds exactly the topology."""
    return Snapshot(
        version=version,
        nodes=1,
        exchanges={e.name: LiveExchange(e.kind, durable=True, arguments={}) for e in topology.exchanges},
        queues={
            q.name: LiveQueue("quorum", durable=True, arguments={"x-queue-type": "quorum"}, members=1)
            for q in topology.queues
        },
        bindings=topology.bindings,
        policies=tuple(
            LivePolicy(p.name, p.pattern, "queues", p.definition_for(version), p.priority) for p in topology.policies
        ),
    )


def foreign(pattern: str, definition: Mapping[str, Any], *, priority: int = 99, apply_to: str = "queues") -> LivePolicy:
    return LivePolicy("foreign", pattern, apply_to, definition, priority)


def with_policy(policy: LivePolicy) -> Snapshot:
    return replace(live(), policies=(*live().policies, policy))


def only(snapshot: Snapshot) -> Difference:
    [found] = compare(TOPOLOGY, snapshot)
    return found


@pytest.mark.parametrize("version", [(3, 10, 8), (3, 13, 7), VERSION])
def test_a_broker_that_is_as_declared_has_no_difference(version: tuple[int, ...]) -> None:
    assert compare(TOPOLOGY, live(version=version)) == []


def test_an_empty_broker_lacks_everything_and_all_of_it_can_be_repaired() -> None:
    found = compare(TOPOLOGY, replace(live(), exchanges={}, queues={}, bindings=frozenset(), policies=()))

    assert {difference.kind for difference in found} == {
        "missing-exchange",
        "missing-queue",
        "missing-binding",
        "missing-policy",
    }
    assert all(difference.repairable and difference.wanted is not None for difference in found)


def test_every_difference_is_a_sentence_with_a_way_out() -> None:
    found = only(replace(live(), bindings=TOPOLOGY.bindings - {Binding("e", "q", "k")}))
    assert str(found) == (
        "queue q is not bound to e by 'k': such messages come back as unroutable; run `outhaul topology apply`"
    )


def test_each_key_that_differs_is_named_with_both_values() -> None:
    first, *rest = live().policies
    changed = replace(first, definition={**first.definition, "max-length": 5, "expires": 9}, priority=1)
    found = only(replace(live(), policies=(changed, *rest)))

    assert found.kind == "different-policy"
    assert found.text == (
        "policy q: expires is 9, declared not set; max-length is 5, declared 1000000; priority is 1, declared 50"
    )


@pytest.mark.parametrize(
    ("policy", "shadows"),
    [
        (foreign("^q$", {}), True),
        (foreign("^q$", {}, priority=50), True),
        (foreign("^q$", {}, priority=49), False),
        (foreign("^q$", {}, apply_to="exchanges"), False),
        (foreign("^q$", {}, apply_to="classic_queues"), False),
        (foreign("^q$", {}, apply_to="quorum_queues"), True),
        (foreign("^q$", {}, apply_to="all"), True),
        (foreign("^other", {}), False),
        (foreign("(?<broken", {}), False),
    ],
)
def test_a_policy_shadows_ours_when_it_matches_and_is_not_weaker(policy: LivePolicy, shadows: bool) -> None:
    assert [found.kind for found in compare(TOPOLOGY, with_policy(policy))] == ["shadowed-policy"] * shadows


def test_the_brokers_own_word_on_which_policy_applies_counts() -> None:
    snapshot = with_policy(foreign("(*UTF)^q", {"max-length": 1}))
    queues = {**snapshot.queues, "q": replace(snapshot.queues["q"], effective_policy="foreign")}
    assert only(replace(snapshot, queues=queues)).kind == "shadowed-policy"


@pytest.mark.parametrize(
    ("definition", "kinds", "harmless"),
    [
        ({"max-length": 5}, ["operator-policy"], True),
        ({"max-length": 2_000_000}, [], True),
        ({"delivery-limit": 2000}, [], True),
        ({"message-ttl": 5}, ["operator-policy"], False),
        ({"expires": 5}, ["operator-policy"], False),
    ],
)
def test_an_operator_policy_counts_where_it_changes_something(
    definition: dict[str, int], kinds: list[str], harmless: bool
) -> None:
    found = compare(TOPOLOGY, replace(live(), operator_policies=(foreign("^q$", definition),)))
    assert [difference.kind for difference in found] == kinds
    assert all(difference.harmless is harmless for difference in found)


@pytest.mark.parametrize(
    ("nodes", "members", "few"),
    [(1, 1, False), (3, 1, True), (3, 3, False), (5, 3, False), (2, 1, True), (None, 1, False)],
)
def test_a_queue_with_fewer_members_than_nodes_is_told(nodes: int | None, members: int, few: bool) -> None:
    queues = {name: replace(queue, members=3) for name, queue in live().queues.items()}
    queues["q"] = replace(queues["q"], members=members)
    found = compare(TOPOLOGY, replace(live(), nodes=nodes, queues=queues))
    assert [difference.kind for difference in found] == ["few-members"] * few


def test_what_cannot_change_under_a_living_queue_is_not_repairable() -> None:
    queues = {**live().queues, "q": LiveQueue("classic", durable=True, arguments={"x-max-length": 1}, members=1)}
    found = only(replace(live(), queues=queues))
    assert (found.kind, found.repairable, found.harmless) == ("different-queue", False, False)
    exchanges = {**live().exchanges, "e": LiveExchange("topic", durable=True, arguments={"x-odd": 1})}
    found = only(replace(live(), exchanges=exchanges))
    assert (found.kind, found.repairable, found.harmless) == ("different-exchange", False, False)

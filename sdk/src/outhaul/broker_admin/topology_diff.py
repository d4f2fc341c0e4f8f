"""What a broker lacks of a declared topology, in words for people: a function of what was declared and what was seen.

Only one policy applies to a queue, so it is not enough that ours is there: another with a higher priority whose pattern
matches shadows it, and messages are then lost or delayed by rules nobody declared. An operator policy goes on top.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from outhaul.topology import QUEUE_ARGUMENTS, Binding, Exchange, Policy, Queue, Topology

# A quorum queue gets this many members where the cluster has them (https://www.rabbitmq.com/docs/quorum-queues).
_USUAL_MEMBERS = 3
_REMOVES_MESSAGES = frozenset({"expires", "message-ttl"})


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which the broker is not what was declared.

    ``kind`` is for scripts: ``missing-exchange``, ``different-exchange``, ``alternate-exchange``, ``missing-queue``,
    ``different-queue``, ``few-members``, ``missing-binding``, ``extra-binding``, ``missing-policy``,
    ``different-policy``, ``shadowed-policy``, ``operator-policy``, ``unseen``. ``repairable`` differences are put right
    by applying; ``harmless`` ones leave delivery as promised. ``text`` and ``remedy`` are for people.
    """

    kind: str
    name: str
    text: str
    remedy: str = "run `outhaul topology apply`"
    repairable: bool = False
    harmless: bool = False
    wanted: Exchange | Queue | Binding | Policy | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class LiveExchange:
    """An exchange as it is. ``alternate`` is where unroutable messages go instead of being returned."""

    kind: str
    durable: bool
    arguments: Mapping[str, Any]
    alternate: str | None = None


@dataclass(frozen=True, slots=True)
class LiveQueue:
    """A queue as it is. ``effective_policy`` is the broker's word for which policy applies; None: it does not say."""

    kind: str
    durable: bool
    arguments: Mapping[str, Any]
    members: int
    effective_policy: str | None = None


@dataclass(frozen=True, slots=True)
class LivePolicy:
    """A policy, or operator policy, as it is."""

    name: str
    pattern: str
    apply_to: str
    definition: Mapping[str, Any]
    priority: int

    def applies_to_queue(self, queue: str) -> bool:
        """Whether it would apply to that quorum queue if no other did."""
        return self.apply_to in {"queues", "all", "quorum_queues"} and self._matches(queue)

    def applies_to_exchange(self, exchange: str) -> bool:
        """Whether it would apply to that exchange if no other did."""
        return self.apply_to in {"exchanges", "all"} and self._matches(exchange)

    def _matches(self, name: str) -> bool:
        try:
            return re.search(self.pattern, name) is not None
        except re.error:
            # The broker's dialect (PCRE) knows more than Python's; what cannot be judged here, the broker reports.
            return False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was seen of a broker: only what the topology names, but every policy. ``nodes`` None: not told."""

    version: tuple[int, ...]
    nodes: int | None
    exchanges: Mapping[str, LiveExchange]
    queues: Mapping[str, LiveQueue]
    bindings: frozenset[Binding]
    policies: tuple[LivePolicy, ...]
    operator_policies: tuple[LivePolicy, ...] = ()


def compare(topology: Topology, snapshot: Snapshot) -> list[Difference]:
    """Every difference, those of exchanges first, then queues, bindings, policies."""
    return [
        *(d for exchange in sorted(topology.exchanges) for d in _exchange(exchange, snapshot)),
        *(d for queue in sorted(topology.queues) for d in _queue(queue, snapshot)),
        *_bindings(topology, snapshot),
        *(d for policy in topology.policies for d in _policy(policy, snapshot)),
        *(d for policy in topology.policies for d in _shadow(policy, snapshot)),
        *(d for policy in topology.policies for d in _operator_policy(policy, snapshot)),
    ]


def _exchange(exchange: Exchange, snapshot: Snapshot) -> Iterator[Difference]:
    live = snapshot.exchanges.get(exchange.name)
    if live is None:
        yield Difference(
            "missing-exchange",
            exchange.name,
            f"exchange {exchange.name} is missing: publishing to it fails",
            repairable=True,
            wanted=exchange,
        )
        return
    arguments = {name: value for name, value in live.arguments.items() if name != "alternate-exchange"}
    if live.kind != exchange.kind or not live.durable or arguments:
        durable = "durable" if live.durable else "not durable"
        yield Difference(
            "different-exchange",
            exchange.name,
            f"exchange {exchange.name} is {live.kind}, {durable}, with arguments {arguments}; declared is "
            f"{exchange.kind}, durable, without arguments",
            "delete it while nothing publishes, then apply",
        )
    if live.alternate is not None:
        yield Difference(
            "alternate-exchange",
            exchange.name,
            f"exchange {exchange.name} hands unroutable messages to {live.alternate}: they are confirmed, and so "
            "count as sent, though no consumer's queue has them",
            "remove the alternate exchange, or see to what arrives there",
            harmless=True,
        )


def _queue(queue: Queue, snapshot: Snapshot) -> Iterator[Difference]:
    live = snapshot.queues.get(queue.name)
    if live is None:
        yield Difference("missing-queue", queue.name, f"queue {queue.name} is missing", repairable=True, wanted=queue)
        return
    extra = {name: value for name, value in live.arguments.items() if name not in QUEUE_ARGUMENTS}
    if live.kind != "quorum" or not live.durable or extra:
        yield Difference(
            "different-queue",
            queue.name,
            f"queue {queue.name} is a {live.kind} queue with arguments {extra}; declared is a quorum queue, "
            "everything else by policy",
            "empty and delete it, then apply; arguments of a living queue cannot change",
        )
    if snapshot.nodes is not None and live.members < min(snapshot.nodes, _USUAL_MEMBERS):
        yield Difference(
            "few-members",
            queue.name,
            f"queue {queue.name} has {live.members} member(s) on {snapshot.nodes} nodes: it is lost with its node",
            f"rabbitmq-queues grow <node> all --queue-pattern '^{re.escape(queue.name)}$' for each other node",
        )


def _bindings(topology: Topology, snapshot: Snapshot) -> Iterator[Difference]:
    for binding in sorted(topology.bindings - snapshot.bindings):
        yield Difference(
            "missing-binding",
            binding.queue,
            f"queue {binding.queue} is not bound to {binding.exchange} by {binding.routing_key!r}: such messages come "
            "back as unroutable",
            repairable=True,
            wanted=binding,
        )
    declared = {queue.name for queue in topology.queues}
    for binding in sorted(snapshot.bindings - topology.bindings):
        if binding.queue in declared:
            yield Difference(
                "extra-binding",
                binding.queue,
                f"queue {binding.queue} is also bound to {binding.exchange} by {binding.routing_key!r}, undeclared",
                "declare it, or unbind it",
                harmless=True,
            )


def _policy(policy: Policy, snapshot: Snapshot) -> Iterator[Difference]:
    live = next((found for found in snapshot.policies if found.name == policy.name), None)
    if live is None:
        yield Difference(
            "missing-policy",
            policy.queue,
            f"policy {policy.name} is missing: queue {policy.queue} has no limits and no dead-lettering",
            repairable=True,
            wanted=policy,
        )
        return
    declared = policy.definition_for(snapshot.version)
    wrong = [
        f"{key} is {live.definition.get(key, 'not set')}, declared {declared.get(key, 'not set')}"
        for key in sorted({*declared, *live.definition})
        if live.definition.get(key) != declared.get(key)
    ]
    if live.pattern != policy.pattern:
        wrong.append(f"pattern is {live.pattern}, declared {policy.pattern}")
    if live.priority != policy.priority:
        wrong.append(f"priority is {live.priority}, declared {policy.priority}")
    if live.apply_to != "queues":
        wrong.append(f"it applies to {live.apply_to}, declared queues")
    if wrong:
        yield Difference(
            "different-policy",
            policy.queue,
            f"policy {policy.name}: {'; '.join(wrong)}",
            repairable=True,
            wanted=policy,
        )


def _shadow(policy: Policy, snapshot: Snapshot) -> Iterator[Difference]:
    live = snapshot.queues.get(policy.queue)
    others = [p for p in snapshot.policies if p.name != policy.name and p.applies_to_queue(policy.queue)]
    shadowing = [p for p in others if p.priority >= policy.priority]
    said = live.effective_policy if live is not None else None
    if said is not None and said != policy.name and any(p.name == policy.name for p in snapshot.policies):
        # The broker's own word counts, also for patterns that only it can read.
        shadowing = [p for p in snapshot.policies if p.name == said] or shadowing
    if shadowing:
        first = max(shadowing, key=lambda found: found.priority)
        yield Difference(
            "shadowed-policy",
            policy.queue,
            f"policy {first.name} (pattern {first.pattern}, priority {first.priority}) takes the place of policy "
            f"{policy.name} on queue {policy.queue}: only one policy applies to a queue, and this one says "
            f"{dict(first.definition)}",
            f"narrow its pattern, lower its priority below {policy.priority}, or clear it: rabbitmqctl clear_policy "
            f"-p VHOST {first.name}",
        )


def _operator_policy(policy: Policy, snapshot: Snapshot) -> Iterator[Difference]:
    matching = [p for p in snapshot.operator_policies if p.applies_to_queue(policy.queue)]
    if not matching:
        return
    live = max(matching, key=lambda found: found.priority)
    declared = policy.definition_for(snapshot.version)
    # Of two numbers the smaller wins, so a larger one changes nothing.
    changed = {
        key: value for key, value in live.definition.items() if key not in declared or _smaller(value, declared[key])
    }
    if changed:
        yield Difference(
            "operator-policy",
            policy.queue,
            f"operator policy {live.name} overrides queue {policy.queue} with {changed}",
            "if it is not meant, have the broker's administrator exclude this queue from it",
            harmless=not _REMOVES_MESSAGES & changed.keys(),
        )


def _smaller(value: object, declared: object) -> bool:
    if isinstance(value, int) and isinstance(declared, int):
        return declared < 0 or 0 <= value < declared
    return value != declared

"""A topology against a live broker: apply it, compare it, or check by AMQP alone that it is there.

`apply` and `diff` go through the management API, since policies can be seen and set nowhere else; `check_passive` needs
no more than a function's own AMQP user. All of them block: from asyncio use ``asyncio.to_thread``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import Any

from outhaul.broker_admin.management import Management
from outhaul.broker_admin.topology_diff import Difference, LiveExchange, LivePolicy, LiveQueue, Snapshot, compare
from outhaul.errors import TopologyError
from outhaul.settings import BrokerSettings, ManagementSettings
from outhaul.topology import OLDEST_BROKER, QUEUE_ARGUMENTS, Binding, Exchange, Policy, Queue, Topology

_POLL_SECONDS = 0.2
# Nodes of a cluster learn of a change one after the other; within this all of them tell the same.
_SETTLED_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` found and put right, and what harmless differences remain."""

    changes: tuple[Difference, ...]
    remaining: tuple[Difference, ...]


def apply(
    topology: Topology,
    broker: BrokerSettings | str,
    management: ManagementSettings | str,
    *,
    nodes: int = 1,
    timeout_seconds: float = 60.0,
) -> Applied:
    """Make the broker what was declared; doing it again changes nothing.

    Waits until ``nodes`` nodes of the cluster run, because a quorum queue gets its members when it is declared.
    Policies are set before their queues exist, so that no message is ever in a queue without its dead-lettering.
    Nothing is deleted: what exists and contradicts the declaration is left alone and told.

    Raises TopologyError naming everything that is still not as declared (a queue of another type, a foreign policy that
    shadows ours), BrokerUnreachable when the API does not answer or refuses the user.
    """
    api = _api(broker, management)
    _wait_for_nodes(api, nodes, timeout_seconds)
    before = _compare(topology, api)
    changes = [difference for difference in before if difference.repairable]
    version = api.version()
    for step in (Policy, Exchange, Queue, Binding):
        for difference in changes:
            if isinstance(difference.wanted, step):
                _put_right(api, difference.wanted, version)
    remaining = _settled(lambda: _compare(topology, api)) if changes else before
    broken = [difference for difference in remaining if not difference.harmless]
    if broken:
        raise TopologyError(
            f"virtual host {api.virtual_host!r} at {api.settings.address} is not as declared:\n"
            + "\n".join(f"- {difference}" for difference in broken)
        )
    return Applied(tuple(changes), tuple(remaining))


def diff(topology: Topology, broker: BrokerSettings | str, management: ManagementSettings | str) -> list[Difference]:
    """Every way in which the broker is not what was declared; changes nothing.

    Raises BrokerUnreachable, and TopologyError when the virtual host is missing or the broker is too old.
    """
    return _compare(topology, _api(broker, management))


def check_passive(topology: Topology, broker: BrokerSettings | str) -> list[Difference]:
    """The exchanges and queues that are missing, asked by AMQP alone; bindings and policies cannot be seen that way.

    Raises BrokerUnreachable.
    """
    import pika  # noqa: PLC0415 - comparing by the management API needs no AMQP client
    from pika import exceptions  # noqa: PLC0415 - as above

    from outhaul.amqp.broker import describe, unreachable  # noqa: PLC0415 - as above

    settings = BrokerSettings.parse(broker)
    wanted: list[Exchange | Queue] = [*sorted(topology.exchanges), *sorted(topology.queues)]
    missing: list[Difference] = []
    try:
        connection = pika.BlockingConnection(settings.parameters(connection_name="outhaul topology check"))
        # A broker that stops answering halfway must not hold a check.
        connection.call_later(settings.connect_timeout_seconds * 2, connection.close)
        with connection:
            channel = None
            for item in wanted:
                # A passive declaration of what does not exist closes the channel.
                channel = channel if channel is not None and channel.is_open else connection.channel()
                try:
                    if isinstance(item, Exchange):
                        channel.exchange_declare(item.name, passive=True)
                    else:
                        channel.queue_declare(item.name, passive=True)
                except exceptions.ChannelClosedByBroker as error:
                    missing.append(_not_there(item, error.reply_code, describe(error)))
    except (exceptions.AMQPError, OSError) as error:
        raise unreachable(settings.address, error) from error
    return missing


def _not_there(item: Exchange | Queue, reply_code: int, reply: str) -> Difference:
    what = "exchange" if isinstance(item, Exchange) else "queue"
    if reply_code == 404:
        return Difference(f"missing-{what}", item.name, f"{what} {item.name} is missing", repairable=True, wanted=item)
    return Difference(
        "unseen",
        item.name,
        f"{what} {item.name} cannot be checked: {reply}",
        "grant the user rights on it, then check again",
    )


def read_snapshot(topology: Topology, api: Management) -> Snapshot:
    """What the broker holds of what the topology names."""
    version = api.version()
    if version[:2] < OLDEST_BROKER:
        raise TopologyError(
            f"RabbitMQ {'.'.join(map(str, version))} at {api.settings.address} is too old: dead-lettering that loses "
            f"nothing (at-least-once) needs {'.'.join(map(str, OLDEST_BROKER))} or newer"
        )
    api.require_virtual_host()
    policies = tuple(_policy(found) for found in api.get_in_vhost("policies") or ())
    exchanges = {}
    for exchange in topology.exchanges:
        found = api.get_in_vhost("exchanges", exchange.name)
        if found is not None:
            exchanges[exchange.name] = _exchange(found, policies)
    queues, bindings = {}, set()
    for queue in topology.queues:
        found = api.get_in_vhost("queues", queue.name, query="?disable_stats=true")
        if found is not None:
            queues[queue.name] = _queue(found)
            bindings |= {
                Binding(binding["source"], queue.name, binding["routing_key"])
                for binding in api.get_in_vhost("queues", queue.name, "bindings") or ()
                if binding["source"]  # every queue is bound to the default exchange, whose name is empty
            }
    return Snapshot(
        version=version,
        nodes=api.running_nodes(),
        exchanges=exchanges,
        queues=queues,
        bindings=frozenset(bindings),
        policies=policies,
        operator_policies=tuple(_policy(found) for found in api.get_in_vhost("operator-policies") or ()),
    )


def _api(broker: BrokerSettings | str, management: ManagementSettings | str) -> Management:
    return Management(management, virtual_host=BrokerSettings.parse(broker).virtual_host)


def _compare(topology: Topology, api: Management) -> list[Difference]:
    return compare(topology, read_snapshot(topology, api))


def _wait_for_nodes(api: Management, nodes: int, timeout_seconds: float) -> None:
    if nodes <= 1:
        return
    deadline = time.monotonic() + timeout_seconds
    pause = Event()
    while True:
        running = api.running_nodes()
        if running is None:
            raise TopologyError(
                f"user {api.settings.user!r} may not see the cluster's nodes, so they cannot be waited for: "
                f"rabbitmqctl set_user_tags {api.settings.user} policymaker monitoring"
            )
        if running >= nodes:
            return
        if time.monotonic() >= deadline:
            raise TopologyError(
                f"{running} of {nodes} nodes run after {timeout_seconds:g} s; a quorum queue declared now "
                "would have too few members"
            )
        pause.wait(_POLL_SECONDS)


def _settled(look: Callable[[], list[Difference]]) -> list[Difference]:
    """What remains once the nodes agree: repairable differences right after a repair are still on their way."""
    deadline = time.monotonic() + _SETTLED_SECONDS
    pause = Event()
    while True:
        remaining = look()
        if not any(difference.repairable for difference in remaining) or time.monotonic() >= deadline:
            return remaining
        pause.wait(_POLL_SECONDS)


def _put_right(api: Management, wanted: Exchange | Queue | Binding | Policy, version: tuple[int, ...]) -> None:
    body: dict[str, Any]
    match wanted:
        case Exchange():
            body = {"type": wanted.kind, "durable": True, "auto_delete": False, "internal": False, "arguments": {}}
            api.put_in_vhost("exchanges", wanted.name, body=body)
        case Queue():
            body = {"durable": True, "auto_delete": False, "arguments": dict(QUEUE_ARGUMENTS)}
            api.put_in_vhost("queues", wanted.name, body=body)
        case Binding():
            body = {"routing_key": wanted.routing_key, "arguments": {}}
            api.post_in_vhost("bindings", "e", wanted.exchange, "q", wanted.queue, body=body)
        case Policy():
            body = {
                "pattern": wanted.pattern,
                "definition": wanted.definition_for(version),
                "apply-to": "queues",
                "priority": wanted.priority,
            }
            api.put_in_vhost("policies", wanted.name, body=body)


def _exchange(found: dict[str, Any], policies: tuple[LivePolicy, ...]) -> LiveExchange:
    alternate = found["arguments"].get("alternate-exchange")
    matching = [policy for policy in policies if policy.applies_to_exchange(found["name"])]
    if alternate is None and matching:
        alternate = max(matching, key=lambda policy: policy.priority).definition.get("alternate-exchange")
    return LiveExchange(found["type"], found["durable"], found["arguments"], alternate)


def _queue(found: dict[str, Any]) -> LiveQueue:
    return LiveQueue(
        kind=found.get("type", "classic"),
        durable=found["durable"],
        arguments=found["arguments"],
        members=len(found.get("members", ())),
        # RabbitMQ 3.10 tells it from statistics that are seconds old and leaves it out here.
        effective_policy=found.get("policy") or None,
    )


def _policy(found: dict[str, Any]) -> LivePolicy:
    return LivePolicy(found["name"], found["pattern"], found["apply-to"], found["definition"], int(found["priority"]))

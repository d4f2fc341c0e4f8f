"""Whether a message of a route would reach a queue, by the bindings a broker has now.

The matching is AMQP's own; alternate exchanges and bindings between exchanges are followed. Where it cannot be told
(a headers exchange, or a plugin's), any binding counts: it is better to try than to hold back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from outhaul.broker_admin.management import Management
from outhaul.broker_admin.routes import topic_matches


@dataclass(frozen=True, slots=True)
class LiveBinding:
    """What of an exchange goes where."""

    destination: str
    to_exchange: bool
    routing_key: str


@dataclass(frozen=True, slots=True)
class LiveSource:
    """An exchange as it is. ``alternate`` gets what no binding takes; None for the default, which is to return it."""

    kind: str
    bindings: tuple[LiveBinding, ...]
    alternate: str | None = None

    def taken_by(self, routing_key: str) -> list[LiveBinding]:
        """The bindings that take a message of that key."""
        words = routing_key.split(".")
        match self.kind:
            case "direct":
                return [each for each in self.bindings if each.routing_key == routing_key]
            case "topic":
                return [each for each in self.bindings if topic_matches(each.routing_key.split("."), words)]
            case _:
                return list(self.bindings)


def read_source(api: Management, exchange: str) -> LiveSource | None:
    """An exchange with its bindings; None when there is none. Raises BrokerUnreachable and TopologyError."""
    found = api.get_in_vhost("exchanges", exchange, query="?columns=name,type,arguments,policy")
    if found is None:
        # A user without permissions there is told the same by some versions.
        api.require_virtual_host()
        return None
    listed = api.get_in_vhost(
        "exchanges",
        exchange,
        "bindings",
        "source",
        query="?columns=destination,destination_type,routing_key",
    )
    bindings = tuple(
        LiveBinding(each["destination"], each["destination_type"] == "exchange", each["routing_key"])
        for each in listed or ()
    )
    return LiveSource(found["type"], bindings, _alternate(api, found))


def leads_to_a_queue(source_of: Callable[[str], LiveSource | None], exchange: str, routing_key: str) -> bool:
    """Whether a message published there arrives anywhere. ``source_of`` gives an exchange by name."""
    seen: set[str] = set()

    def leads(name: str) -> bool:
        if name in seen:
            return False
        seen.add(name)
        source = source_of(name)
        if source is None:
            return False
        taken = source.taken_by(routing_key)
        if any(not each.to_exchange or leads(each.destination) for each in taken):
            return True
        return source.alternate is not None and leads(source.alternate)

    return leads(exchange)


def _alternate(api: Management, found: dict[str, Any]) -> str | None:
    alternate = found.get("arguments", {}).get("alternate-exchange")
    if alternate is None and found.get("policy"):
        policy = api.get_in_vhost("policies", found["policy"])
        alternate = policy.get("definition", {}).get("alternate-exchange") if isinstance(policy, dict) else None
    return str(alternate) if alternate else None

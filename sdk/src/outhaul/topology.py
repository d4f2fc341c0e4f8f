"""What must exist on the broker, said once: exchanges, quorum queues, bindings and one policy a queue.

Everything a queue does (dead-lettering, limits, delays) is set by policy and never by queue argument, because a policy
can change under a living queue while an argument means deleting it. How a message travels::

    outhaul.events --order.created--> outhaul.waybill --rejected, crashed--> outhaul.dlx --> outhaul.waybill.dlq
                                            ^  |
                                            |  +--failed, published by the consumer--> outhaul.retry
                                            |                                                |
                                            +-- outhaul.retry <-- outhaul.waybill.retry.5s <-+   (after its time)

All of it is pure: `outhaul.broker_admin.topology_apply` reads and changes a broker,
`outhaul.broker_admin.topology_load` reads files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from outhaul.configuration.durations import format_duration
from outhaul.errors import ConfigurationError
from outhaul.message import SHORT_STRING_BYTES

RETRY_EXCHANGE = "outhaul.retry"
DEAD_LETTER_EXCHANGE = "outhaul.dlx"
QUEUE_ARGUMENTS: Mapping[str, str] = {"x-queue-type": "quorum"}
POLICY_PRIORITY = 50
OLDEST_BROKER = (3, 10)

# A message waits in a tier by the queue's TTL, which the broker takes as milliseconds and bounds by what a timer holds.
_LONGEST_DELAY_SECONDS = 86_400.0
_OFF = -1

ExchangeKind = Literal["topic", "direct", "fanout", "headers"]
EXCHANGE_KINDS: tuple[ExchangeKind, ...] = ("topic", "direct", "fanout", "headers")


@dataclass(frozen=True, slots=True, order=True)
class Exchange:
    """A durable exchange."""

    name: str
    kind: ExchangeKind = "topic"

    def __post_init__(self) -> None:
        """Refuse what the broker would refuse."""
        check_name("exchange", self.name)
        if self.kind not in EXCHANGE_KINDS:
            raise ConfigurationError(f"kind of exchange {self.name}", self.kind, f"one of {', '.join(EXCHANGE_KINDS)}")


@dataclass(frozen=True, slots=True, order=True)
class Queue:
    """A durable quorum queue; its only argument is its type."""

    name: str

    def __post_init__(self) -> None:
        """Refuse what the broker would refuse."""
        check_name("queue", self.name)


@dataclass(frozen=True, slots=True, order=True)
class Binding:
    """What of an exchange goes to a queue."""

    exchange: str
    queue: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class Policy:
    """What one queue does. A queue obeys one policy alone, that of the highest priority whose pattern matches."""

    queue: str
    definition: Mapping[str, str | int] = field(hash=False)
    priority: int = POLICY_PRIORITY

    @property
    def name(self) -> str:
        """The policy's name in its virtual host: the queue's."""
        return self.queue

    @property
    def pattern(self) -> str:
        """A regular expression that matches this queue and no other."""
        return f"^{re.escape(self.queue)}$"

    def definition_for(self, version: Sequence[int]) -> dict[str, str | int]:
        """The keys that this version of RabbitMQ takes; what is left out is its default there, or has no equal."""
        return {
            key: value
            for key, value in self.definition.items()
            if tuple(version[:2]) >= _SINCE.get(key, OLDEST_BROKER)
            # No limit is the default of 3.x, which refuses to be told so.
            and not (key == "delivery-limit" and value == _OFF and version[0] < 4)
        }


# Policy keys that older brokers refuse, by the version that took them first.
_SINCE: Mapping[str, tuple[int, int]] = {"consumer-timeout": (3, 12)}


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything declared, in no particular order and without doubles."""

    exchanges: frozenset[Exchange] = frozenset()
    queues: frozenset[Queue] = frozenset()
    bindings: frozenset[Binding] = frozenset()
    policies: tuple[Policy, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a topology at odds with itself."""
        names = [exchange.name for exchange in self.exchanges]
        doubles = {name for name in names if names.count(name) > 1}
        if doubles:
            raise ConfigurationError("topology", sorted(doubles), "one exchange cannot be of two kinds")
        queues = [policy.queue for policy in self.policies]
        if len(set(queues)) != len(queues):
            doubled = sorted({name for name in queues if queues.count(name) > 1})
            raise ConfigurationError("topology", doubled, "one queue cannot have two different policies")
        strays = {b.exchange for b in self.bindings} - set(names) | ({b.queue for b in self.bindings} | set(queues)) - {
            queue.name for queue in self.queues
        }
        if strays:
            raise ConfigurationError("topology", sorted(strays), "is bound or has a policy, and is not declared")

    def __or__(self, other: Topology) -> Topology:
        """Both together: several consumers on one broker. Raises ConfigurationError where they contradict."""
        return Topology(
            exchanges=self.exchanges | other.exchanges,
            queues=self.queues | other.queues,
            bindings=self.bindings | other.bindings,
            policies=(*self.policies, *(policy for policy in other.policies if policy not in self.policies)),
        )


def merged(topologies: Iterable[Topology]) -> Topology:
    """All of them together."""
    whole = Topology()
    for topology in topologies:
        whole |= topology
    return whole


def tier_name(queue: str, delay_seconds: float) -> str:
    """The delay queue in which a message of ``queue`` waits that long: ``outhaul.waybill.retry.5s``."""
    return f"{queue}.retry.{format_duration(delay_seconds)}"


def dead_letter_queue(queue: str) -> str:
    """The queue that keeps what ``queue`` gave up on."""
    return f"{queue}.dlq"


def producer_topology(exchange: str, *, kind: ExchangeKind = "topic") -> Topology:
    """What a producer needs: the exchange it publishes to. Nothing is routed until a consumer's queue is bound."""
    return Topology(exchanges=frozenset({Exchange(exchange, kind)}))


def consumer_topology(
    queue: str,
    bindings: Iterable[tuple[str, str]],
    *,
    retry_delays_seconds: Iterable[float] = (5, 30, 300),
    max_length: int = 1_000_000,
    delivery_limit: int = 1000,
    consumer_timeout_seconds: float = 1800.0,
    exchange_kind: ExchangeKind = "topic",
    dlx: str = DEAD_LETTER_EXCHANGE,
    retry_exchange: str = RETRY_EXCHANGE,
    policy_priority: int = POLICY_PRIORITY,
) -> Topology:
    """One consumer's queue with its delay tiers and its dead-letter queue, and the exchanges it is fed from.

    ``bindings`` are (exchange, routing key) pairs. ``max_length`` bounds each of the queues; a full one refuses
    publishing (nack), which keeps the message with its sender. ``delivery_limit`` is the broker's own outer net against
    a message that kills its consumer, far above the consumer's own count. ``consumer_timeout_seconds`` is how long the
    broker waits for an acknowledgement. Raises ConfigurationError.
    """
    pairs = list(bindings)
    if not pairs:
        raise ConfigurationError("bindings", pairs, f"queue {queue} would receive nothing; bind it to an exchange")
    if not 1 <= max_length <= 2**31 - 1 or not 1 <= delivery_limit <= 2**31 - 1:
        raise ConfigurationError("max_length, delivery_limit", (max_length, delivery_limit), "must be 1 or more")
    if not 60 <= consumer_timeout_seconds <= _LONGEST_DELAY_SECONDS:
        raise ConfigurationError("consumer_timeout_seconds", consumer_timeout_seconds, "from 60 (1m) to 86400 (a day)")
    delays = [_delay(seconds) for seconds in retry_delays_seconds]
    tiers = {tier_name(queue, milliseconds / 1000): milliseconds for milliseconds in delays}
    dlq = dead_letter_queue(queue)
    keeps_what_it_has: dict[str, str | int] = {
        "overflow": "reject-publish",
        "max-length": max_length,
        "queue-leader-locator": "balanced",
    }
    main = keeps_what_it_has | {
        "dead-letter-exchange": dlx,
        # Explicit, because after a delay tier a message has the queue's name for its routing key and not its own.
        "dead-letter-routing-key": queue,
        "dead-letter-strategy": "at-least-once",
        "delivery-limit": delivery_limit,
        "consumer-timeout": round(consumer_timeout_seconds * 1000),
    }
    back_to_main: dict[str, str | int] = {
        "dead-letter-exchange": retry_exchange,
        "dead-letter-routing-key": queue,
        "dead-letter-strategy": "at-least-once",
        # Looking into a tier must not move its messages on.
        "delivery-limit": _OFF,
    }
    return Topology(
        exchanges=frozenset(
            {
                *(Exchange(exchange, exchange_kind) for exchange, _ in pairs),
                Exchange(dlx, "direct"),
                Exchange(retry_exchange, "direct"),
            }
        ),
        queues=frozenset(Queue(name) for name in (queue, dlq, *tiers)),
        bindings=frozenset(
            {
                *(Binding(exchange, queue, routing_key) for exchange, routing_key in pairs),
                Binding(retry_exchange, queue, queue),
                Binding(dlx, dlq, queue),
                *(Binding(retry_exchange, tier, tier) for tier in tiers),
            }
        ),
        policies=(
            Policy(queue, main, policy_priority),
            *(
                Policy(tier, keeps_what_it_has | back_to_main | {"message-ttl": milliseconds}, policy_priority)
                for tier, milliseconds in tiers.items()
            ),
            # Reading the dead letters again and again must never lose one.
            Policy(dlq, keeps_what_it_has | {"delivery-limit": _OFF}, policy_priority),
        ),
    )


def check_name(what: str, name: str) -> None:
    """Refuse a name that AMQP cannot carry or that the broker keeps for itself."""
    if not name or not name.isprintable():
        raise ConfigurationError(what, name, "must be text without control characters, and not empty")
    if len(name.encode(errors="replace")) > SHORT_STRING_BYTES:
        raise ConfigurationError(what, name[:40] + "…", f"AMQP carries at most {SHORT_STRING_BYTES} bytes")
    if name.startswith("amq."):
        raise ConfigurationError(what, name, "names starting with amq. are the broker's own")


def _delay(seconds: float) -> int:
    """Milliseconds of a tier."""
    if not 0.001 <= seconds <= _LONGEST_DELAY_SECONDS:
        raise ConfigurationError("retry_delays_seconds", seconds, "must lie between 0.001 and 86400 (a day)")
    return round(seconds * 1000)

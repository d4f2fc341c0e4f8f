"""Which routes lead to a queue: AMQP's own matching of routing keys, over a declared topology. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from outhaul.topology import Topology, dead_letter_queue


def consumer_queues(topology: Topology) -> list[str]:
    """The queues that consumers read: those with a dead-letter queue of their own."""
    names = {queue.name for queue in topology.queues}
    return sorted(name for name in names if dead_letter_queue(name) in names)


def leads_to(topology: Topology, queue: str) -> Callable[[str, str], bool]:
    """A test whether a message published to an exchange by a routing key arrives in the queue."""
    kinds = {exchange.name: exchange.kind for exchange in topology.exchanges}
    bindings = [
        (binding.exchange, kinds[binding.exchange], binding.routing_key.split("."))
        for binding in topology.bindings
        if binding.queue == queue
    ]

    def arrives(exchange: str, routing_key: str) -> bool:
        words = routing_key.split(".")
        for bound, kind, pattern in bindings:
            if bound != exchange:
                continue
            # A headers exchange looks at headers, which the history does not keep: then the route counts.
            if kind in {"fanout", "headers"} or (kind == "direct" and pattern == words):
                return True
            if kind == "topic" and topic_matches(pattern, words):
                return True
        return False

    return arrives


def topic_matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """AMQP 0-9-1 section 3.1.3.3: ``*`` stands for one word, ``#`` for any number of them, none included.

    >>> topic_matches("order.#".split("."), "order".split("."))
    True
    >>> topic_matches("order.*".split("."), "order.created.v1".split("."))
    False
    """
    # reached[i]: the pattern so far can stand for the first i words. Linear in both; no backtracking.
    reached = [True] + [False] * len(words)
    for part in pattern:
        if part == "#":
            for index in range(len(words)):
                reached[index + 1] = reached[index + 1] or reached[index]
        else:
            reached = [False] + [before and part in {"*", word} for before, word in zip(reached, words, strict=False)]
    return reached[-1]

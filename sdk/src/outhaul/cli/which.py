"""Which queue and which topology a command means, when nobody says so in full."""

from __future__ import annotations

from outhaul.broker_admin.routes import consumer_queues
from outhaul.broker_admin.topology_load import load_topology
from outhaul.cli.parts import NotSaid, Parts
from outhaul.errors import ConfigurationError
from outhaul.topology import Topology


def declared(parts: Parts, source: str | None) -> Topology:
    """The topology by option or `OUTHAUL_TOPOLOGY`, else all that is installed. Raises ConfigurationError."""
    from_environment = parts.environment.text_or_none("OUTHAUL_TOPOLOGY")
    setting = "--topology" if source or not from_environment else "OUTHAUL_TOPOLOGY"
    return load_topology(source or from_environment, setting=setting)


def is_named(parts: Parts, source: str | None) -> bool:
    """Whether somebody named a topology, by option or environment."""
    return bool(source or parts.environment.text_or_none("OUTHAUL_TOPOLOGY"))


def declared_or_none(parts: Parts, source: str | None) -> Topology | None:
    """As above; None when nobody named one and none is installed."""
    if is_named(parts, source):
        return declared(parts, source)
    try:
        return declared(parts, None)
    except ConfigurationError:
        return None


def queue_name_or_none(parts: Parts, queue: str | None, source: str | None) -> str | None:
    """The consumer's queue by option, `OUTHAUL_QUEUE`, or the topology's only one."""
    named = queue or parts.environment.text_or_none("OUTHAUL_QUEUE")
    if named:
        # Whoever names the dead-letter queue means the queue it belongs to.
        return named.removesuffix(".dlq")
    topology = declared_or_none(parts, source)
    known = consumer_queues(topology) if topology else []
    return known[0] if len(known) == 1 else None


def queue_name(parts: Parts, queue: str | None, source: str | None) -> str:
    """As above. Raises NotSaid where a person must choose."""
    found = queue_name_or_none(parts, queue, source)
    if found is None:
        topology = declared_or_none(parts, source)
        known = consumer_queues(topology) if topology else []
        choice = f"choose one of {', '.join(known)}" if known else "no topology is installed that would tell"
        raise NotSaid(f"the consumer's queue is not known: give --queue, or set OUTHAUL_QUEUE; {choice}.")
    return found

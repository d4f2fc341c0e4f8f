"""What the waybill function needs on the broker, said once: everybody who declares or checks it reads it here."""

from __future__ import annotations

from typing import Final

from outhaul.topology import Topology, consumer_topology

QUEUE: Final = "outhaul.waybill"
EXCHANGE: Final = "outhaul.events"
ROUTING_KEY: Final = "order.created"
RETRY_DELAYS_SECONDS: Final = (5.0, 30.0, 300.0)

TOPOLOGY: Final[Topology] = consumer_topology(
    QUEUE, [(EXCHANGE, ROUTING_KEY)], retry_delays_seconds=RETRY_DELAYS_SECONDS
)

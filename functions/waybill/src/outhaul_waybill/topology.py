"""What the waybill function needs on the broker, said once: everybody who declares or checks it reads it here.

``python -P -m outhaul_waybill.topology`` prints it as the file that `outhaul topology apply --topology` takes; the
chart keeps a copy.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from outhaul.configuration.durations import format_duration
from outhaul.topology import Topology, consumer_topology

QUEUE: Final = "outhaul.waybill"
EXCHANGE: Final = "outhaul.events"
ROUTING_KEY: Final = "order.created"
RETRY_DELAYS_SECONDS: Final = (5.0, 30.0, 300.0)

TOPOLOGY: Final[Topology] = consumer_topology(
    QUEUE, [(EXCHANGE, ROUTING_KEY)], retry_delays_seconds=RETRY_DELAYS_SECONDS
)


def document() -> dict[str, Any]:
    """The topology as a file says it."""
    consumer = {
        "queue": QUEUE,
        "bindings": [{"exchange": EXCHANGE, "routing_key": ROUTING_KEY}],
        "retry_delays": [format_duration(seconds) for seconds in RETRY_DELAYS_SECONDS],
    }
    return {"consumers": [consumer]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(document(), indent=2) + "\n")

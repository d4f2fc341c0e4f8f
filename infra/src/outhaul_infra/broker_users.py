"""Who may do what on the broker: one user an identity, with the rights it uses and no more.

Rights are three patterns (configure, write, read) over names of exchanges and queues; see RabbitMQ's documentation,
"Access Control". The names are those of the declared topology (docs/reference/topology.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NOTHING: Final = "^$"


@dataclass(frozen=True, slots=True)
class BrokerUser:
    """One identity; ``tags`` open the management API to it."""

    identity: str
    configure: str = NOTHING
    write: str = NOTHING
    read: str = NOTHING
    tags: tuple[str, ...] = ()


USERS: Final = (
    BrokerUser("order", write=r"^outhaul\.events$"),
    BrokerUser("waybill", write=r"^outhaul\.(retry|dlx)$", read=r"^outhaul\.waybill$"),
    # Resending publishes events anew; redriving takes letters out of the dead-letter queue and puts them back in
    # through the retry exchange. `monitoring` shows depths, alarms and policies, and changes nothing.
    BrokerUser("operator", write=r"^outhaul\.(events|retry)$", read=r"^outhaul\.waybill\.dlq$", tags=("monitoring",)),
    BrokerUser(
        "topology",
        configure=r"^outhaul\.",
        write=r"^outhaul\.",
        read=r"^outhaul\.",
        tags=("monitoring", "policymaker"),
    ),
    # Without any permission on the virtual host a queue is 404 to the management API, whatever the tag; `^$` is one.
    BrokerUser("keda", tags=("management",)),
    BrokerUser("admin", configure=".*", write=".*", read=".*", tags=("administrator",)),
)

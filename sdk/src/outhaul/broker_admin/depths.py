"""How much lies in a consumer's queue, its delay tiers and its dead-letter queue, by the management API.

Not by AMQP: a passive declare counts neither what is delivered and not yet acknowledged, nor what waits to be
dead-lettered (`messages_dlx`), and looks empty while a consumer holds everything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from outhaul.broker_admin.management import Management
from outhaul.topology import dead_letter_queue

_COLUMNS = "name,state,consumers,messages_ready,messages_unacknowledged,messages_dlx"
MOST_QUEUES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """One queue. Counts are the broker's statistics, up to five seconds old; None until it has made any."""

    name: str
    ready: int | None
    unacked: int | None
    awaiting_dead_lettering: int
    consumers: int

    @property
    def total(self) -> int | None:
        """Every message the queue holds."""
        if self.ready is None or self.unacked is None:
            return None
        return self.ready + self.unacked + self.awaiting_dead_lettering


@dataclass(frozen=True, slots=True, kw_only=True)
class Depths:
    """A consumer's queue and what belongs to it; None for a queue that does not exist."""

    main: Depth | None
    dead: Depth | None
    tiers: tuple[Depth, ...] = ()

    @property
    def waiting(self) -> int | None:
        """Messages on their way to the consumer: in its queue, delivered ones included, and in its delay tiers."""
        if self.main is None:
            return None
        total = 0
        for depth in (self.main, *self.tiers):
            if depth.total is None:
                return None
            total += depth.total
        return total


def look(management: Management, queue: str) -> Depths:
    """Ask the broker. Raises BrokerUnreachable, and TopologyError when the virtual host is not there."""
    dead = dead_letter_queue(queue)
    pattern = rf"^{re.escape(queue)}(\.dlq|\.retry\.[^.]+)?$"
    query = urlencode({"page": 1, "page_size": MOST_QUEUES, "name": pattern, "use_regex": "true", "columns": _COLUMNS})
    answer = management.get_in_vhost("queues", query=f"?{query}")
    if answer is None:
        management.require_virtual_host()
        return Depths(main=None, dead=None)
    found = {item["name"]: _depth(item) for item in answer.get("items", [])}
    return Depths(
        main=found.pop(queue, None),
        dead=found.pop(dead, None),
        tiers=tuple(found[name] for name in sorted(found)),
    )


def _depth(item: dict[str, Any]) -> Depth:
    return Depth(
        name=item["name"],
        ready=item.get("messages_ready"),
        unacked=item.get("messages_unacknowledged"),
        awaiting_dead_lettering=item.get("messages_dlx") or 0,
        consumers=item.get("consumers") or 0,
    )

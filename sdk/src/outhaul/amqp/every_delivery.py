"""Every delivery reaches us, also one that comes after its subscription was cancelled: it is ours until it is settled.

pika gives a delivery to the callback of its consumer tag. One for a tag that is being cancelled it rejects by itself;
one for a tag that was cancelled it logs as unexpected and drops, unsettled, and the next multiple ack takes it along:
lost. That happens. A quorum queue's deliveries come from the member nearest to the channel, the answer to a cancel from
its leader, so while nodes die the answer may overtake them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def take_every_delivery(channel: Any, on_delivery: Callable[[Any, Any, bytes], None]) -> None:
    """Call ``on_delivery(method, properties, body)`` for each delivery of the channel, whatever its consumer tag.

    It stands in for the callbacks given to ``basic_consume``, and for what pika does with all others.
    """

    def on_deliver(method_frame: Any, header_frame: Any, body: bytes) -> None:
        on_delivery(method_frame.method, header_frame.properties, body)

    channel._on_deliver = on_deliver  # noqa: SLF001 - pika has no other place where all of them pass

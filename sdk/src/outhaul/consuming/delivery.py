"""What the broker hands over, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

from outhaul.deadletter import Letter


class Delivery(NamedTuple):
    """One message as delivered.

    ``tag`` counts deliveries of one channel, ``channel`` tells the channels of one consumer apart: a tag means nothing
    on another. The defaults suit a delivery that never saw a broker (a test's).
    """

    body: bytes
    exchange: str = ""
    routing_key: str = ""
    redelivered: bool = False
    headers: Mapping[str, Any] = {}
    message_id: str | None = None
    type: str | None = None
    content_type: str | None = None
    tag: int = 0
    channel: int = 0


class Result(Enum):
    """What became of a delivery."""

    DONE = "done"
    DUPLICATE = "duplicate"
    RETRIED = "retried"
    DEAD_LETTERED = "dead_lettered"


class Outcome(NamedTuple):
    """The decision about one delivery.

    ``letter`` says what to publish before the ack: to the delay tier ``tier`` (RETRIED) or to the dead-letter exchange
    (DEAD_LETTERED). ``message_id`` is the CloudEvents id in canonical form, where the message has one.
    """

    delivery: Delivery
    result: Result
    message_id: str | None = None
    letter: Letter | None = None
    tier: str = ""
    error: BaseException | None = None

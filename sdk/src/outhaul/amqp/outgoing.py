"""What is handed to the broker, and what became of it. Only CONFIRMED means sent."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

from outhaul.events import CLOUDEVENTS_JSON


class Outcome(Enum):
    """What became of one published message."""

    CONFIRMED = "confirmed"
    """Routed to at least one queue and held by all of them: sent."""
    UNROUTABLE = "unroutable"
    """The exchange is there, no binding matches. An outage of the route, not the message's fault."""
    NO_EXCHANGE = "no-exchange"
    """The exchange is missing (404) or may not be written to (403). An outage of the route."""
    NACKED = "nacked"
    """A queue would not take it: full, or without a majority. An outage of the route."""
    UNCONFIRMED = "unconfirmed"
    """No answer in time, while the broker did answer for others: an outage of the route; it may have arrived."""
    REFUSED = "refused"
    """The client or the broker refuses this very message (too large, invalid properties)."""
    UNKNOWN = "unknown"
    """No answer: the connection ended first. It may be in the queue or not, so it is not sent."""


NO_HEADERS: Mapping[str, Any] = MappingProxyType({})


class Outgoing(NamedTuple):
    """One message to publish, persistent and mandatory. ``key`` is the caller's own, handed back with the outcome."""

    key: Hashable
    exchange: str
    routing_key: str
    body: bytes
    message_id: str
    type: str = ""
    content_type: str = CLOUDEVENTS_JSON
    headers: Mapping[str, Any] = NO_HEADERS


class Settled(NamedTuple):
    """The outcome of one message; ``detail`` says why it is not CONFIRMED, in words for people.

    ``suspect`` is True for an UNKNOWN message when the broker closed the channel over one of those in flight:
    publishing each of them alone finds it.
    """

    key: Hashable
    outcome: Outcome
    detail: str = ""
    suspect: bool = False

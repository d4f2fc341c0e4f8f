"""Outhaul: a transactional outbox and an idempotent inbox over PostgreSQL and RabbitMQ.

>>> from outhaul import Message, Outbox
>>> outbox = Outbox(exchange="shop.events")
>>> outbox.source
'shop.events'

Importing this configures no logging, reads no environment and opens nothing. The names below load on first use, so
that a producer which only records messages does not pay for the broker's client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from outhaul.consumer import Consumer
    from outhaul.errors import OuthaulError, Reject
    from outhaul.events import Event
    from outhaul.message import Message
    from outhaul.outbox import Outbox
    from outhaul.retry import Retry
    from outhaul.sender import Sender

_HOME = {
    "Consumer": "outhaul.consumer",
    "Event": "outhaul.events",
    "Message": "outhaul.message",
    "Outbox": "outhaul.outbox",
    "OuthaulError": "outhaul.errors",
    "Reject": "outhaul.errors",
    "Retry": "outhaul.retry",
    "Sender": "outhaul.sender",
}

__all__ = ["Consumer", "Event", "Message", "Outbox", "OuthaulError", "Reject", "Retry", "Sender", "__version__"]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)

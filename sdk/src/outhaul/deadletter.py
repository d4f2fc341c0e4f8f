"""Dead letters: why a message was given up, written into its headers so that people and tools can read it there.

The same headers travel with a message that waits for its next attempt. Letters the broker dead-lettered by itself
(a crashed consumer's, or one rejected because the dead-letter queue could not be reached) carry `x-death` alone;
`read` understands both. `x-death` is never counted by: RabbitMQ 3.10 goes on counting a republished one, 4.x does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

FAILED = "x-outhaul-failed"
REASON = "x-outhaul-reason"
ERROR = "x-outhaul-error"
FIRST_FAILED_AT = "x-outhaul-first-failed-at"
LAST_FAILED_AT = "x-outhaul-last-failed-at"
EXCHANGE = "x-outhaul-exchange"
ROUTING_KEY = "x-outhaul-routing-key"
CONSUMER = "x-outhaul-consumer"
FORCE = "x-outhaul-force"

# What a redrive takes off so that the message starts anew. FORCE is not among them: redrive puts it on.
OUTHAUL_HEADERS = (FAILED, REASON, ERROR, FIRST_FAILED_AT, LAST_FAILED_AT, EXCHANGE, ROUTING_KEY, CONSUMER)

# The broker writes these; republished they would be stale or be taken for the client's own.
BROKER_HEADERS = (
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
    "x-delivery-count",
    "x-acquired-count",
)

# RabbitMQ routes by these as by the routing key: republished, each failure would send further copies to other queues,
# or to the message's own without a delay.
ROUTING_HEADERS = ("CC", "BCC")

# The whole header frame must fit into one AMQP frame (128 KiB by default).
_ERROR_CHARACTERS = 500
_MOST_FAILURES = 1_000_000


class Reason(StrEnum):
    """Why a message was given up: the value of `x-outhaul-reason` and of the metrics' label."""

    MALFORMED = "malformed"
    NOT_A_CLOUDEVENT = "not-a-cloudevent"
    INVALID_ID = "invalid-id"
    INVALID_DATA = "invalid-data"
    UNKNOWN_TYPE = "unknown-type"
    UNKNOWN_VERSION = "unknown-version"
    OVERSIZE = "oversize"
    TOO_OLD = "too-old"
    COLLISION = "collision"
    REJECTED = "rejected"
    UNIQUE_VIOLATION = "unique-violation"
    TRANSACTION_ENDED = "transaction-ended"
    EXHAUSTED = "exhausted"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Letter:
    """What is known of a message that failed.

    ``reason`` is a Reason's value, a reason of the handler's own InvalidMessage, or the broker's word for it
    (``rejected``, ``expired``, ``maxlen``, ``delivery_limit``); empty while the message is still being retried.
    ``failed`` counts failed attempts. ``exchange`` and ``routing_key`` are those it was first published with.
    """

    reason: str = ""
    error: str = ""
    failed: int = 0
    first_failed_at: datetime | None = None
    last_failed_at: datetime | None = None
    exchange: str = ""
    routing_key: str = ""
    consumer: str = ""

    def headers(self, original: Mapping[str, Any]) -> dict[str, Any]:
        """The message's headers with this letter in them, and without those that the broker writes or routes by."""
        carried = {name: value for name, value in original.items() if name not in _REPLACED}
        carried[FAILED] = self.failed
        carried[EXCHANGE] = self.exchange
        carried[ROUTING_KEY] = self.routing_key
        carried[CONSUMER] = self.consumer
        if self.reason:
            carried[REASON] = self.reason
        if self.error:
            carried[ERROR] = self.error
        if self.first_failed_at is not None:
            carried[FIRST_FAILED_AT] = _written(self.first_failed_at)
        if self.last_failed_at is not None:
            carried[LAST_FAILED_AT] = _written(self.last_failed_at)
        return carried


_REPLACED = frozenset((*OUTHAUL_HEADERS, *BROKER_HEADERS, *ROUTING_HEADERS))


def read(headers: Mapping[str, Any], *, exchange: str = "", routing_key: str = "") -> Letter:
    """What a message's headers tell. ``exchange`` and ``routing_key`` are those of this delivery.

    Never raises: anybody may have written the headers. What makes no sense there counts as absent.
    """
    death = _newest_death(headers)
    keys = death.get("routing-keys")
    died_with = keys[0] if isinstance(keys, list) and keys else ""
    died_at = _moment(death.get("time"))
    return Letter(
        reason=_text(headers.get(REASON)) or _text(death.get("reason")),
        error=_text(headers.get(ERROR)),
        failed=failed_of(headers),
        first_failed_at=_moment(headers.get(FIRST_FAILED_AT)) or died_at,
        last_failed_at=_moment(headers.get(LAST_FAILED_AT)) or died_at,
        exchange=_text(headers.get(EXCHANGE)) or _text(death.get("exchange")) or exchange,
        routing_key=_text(headers.get(ROUTING_KEY)) or _text(died_with) or routing_key,
        consumer=_text(headers.get(CONSUMER)),
    )


def failed_of(headers: Mapping[str, Any]) -> int:
    """How often the message has failed, as its header says; 0 where it says nothing sensible."""
    value = headers.get(FAILED)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_FAILURES:
        return 0
    return value


def origin_of(headers: Mapping[str, Any], exchange: str, routing_key: str) -> tuple[str, str]:
    """Exchange and routing key it was first published with: after a delay tier its own are the retry's."""
    if EXCHANGE in headers:
        return _text(headers.get(EXCHANGE)), _text(headers.get(ROUTING_KEY))
    return exchange, routing_key


def describe_error(error: BaseException) -> str:
    """``Class: text``, on one line and short enough for a header and a column."""
    return tidy(f"{type(error).__name__}: {error}")


def tidy(text: str) -> str:
    """Text that AMQP and PostgreSQL can both carry: one line, no NUL, no lone surrogates, 500 characters."""
    line = " ".join(text.replace("\x00", "\\x00").split())
    if len(line) > _ERROR_CHARACTERS:
        line = line[: _ERROR_CHARACTERS - 1] + "…"
    return line.encode("utf-8", "backslashreplace").decode("utf-8")


def _newest_death(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    deaths = headers.get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        return deaths[0]
    return {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def _moment(value: object) -> datetime | None:
    """A time in UTC, from pika's zoneless timestamps or from text; None for what is none or has none in UTC."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if not isinstance(moment, datetime):
            return None
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None

"""Dead letters as the tools see them: which ones are meant, and what a redriven one looks like. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from outhaul import deadletter
from outhaul.ids import is_uuid7, time_of


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One letter as delivered. ``tag`` settles it, on the channel it came by; ``subject`` is the aggregate's id.

    ``message_id`` is the CloudEvents id where the body tells one, else the AMQP property, else None.
    """

    tag: int
    message_id: str | None
    type: str
    subject: str
    letter: deadletter.Letter
    properties: Any = field(repr=False, compare=False)
    headers: Mapping[str, Any] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def id(self) -> UUID | None:
        """The message id, where it is one the inbox could know."""
        try:
            found = UUID(self.message_id or "")
        except ValueError:
            return None
        return found if is_uuid7(found) else None

    def summary(self) -> dict[str, Any]:
        """What lists and records show: everything but headers and payload."""
        return {
            "message_id": self.message_id,
            "type": self.type,
            "subject": self.subject,
            "reason": self.letter.reason,
            "error": self.letter.error,
            "failed": self.letter.failed,
            "first_failed_at": self.letter.first_failed_at,
            "last_failed_at": self.letter.last_failed_at,
            "exchange": self.letter.exchange,
            "routing_key": self.letter.routing_key,
            "consumer": self.letter.consumer,
            "bytes": len(self.body),
            "sha256": hashlib.sha256(self.body).hexdigest(),
        }

    def payload(self) -> Any:
        """The body as JSON where it is some, as text where it is text, else as hexadecimal digits."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            try:
                return self.body.decode()
            except UnicodeDecodeError:
                return self.body.hex()


def from_delivery(method: Any, properties: Any, body: bytes) -> DeadLetter:
    """What pika hands over, read as far as it makes sense. Never raises: anybody may have written it."""
    headers = properties.headers or {}
    envelope = _envelope(body)
    return DeadLetter(
        tag=method.delivery_tag,
        message_id=_text(envelope, "id") or properties.message_id or None,
        type=_text(envelope, "type") or properties.type or "",
        subject=_text(envelope, "subject"),
        letter=deadletter.read(headers, exchange=method.exchange, routing_key=method.routing_key),
        properties=properties,
        headers=headers,
        body=body,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which letters are meant: those that satisfy every part that is given. Ages are seconds since the last failure."""

    reasons: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    older_than_seconds: float | None = None
    younger_than_seconds: float | None = None

    def matches(self, letter: DeadLetter, now: datetime) -> bool:
        """Whether the letter is meant. A letter that tells no time matches no age."""
        return (
            (not self.reasons or letter.letter.reason in self.reasons)
            and (not self.types or letter.type in self.types)
            and (not self.ids or (letter.message_id or "").lower() in self.ids)
            and (not self.subjects or letter.subject in self.subjects)
            and self._age_matches(letter.letter.last_failed_at, now)
        )

    def _age_matches(self, failed_at: datetime | None, now: datetime) -> bool:
        if self.older_than_seconds is None and self.younger_than_seconds is None:
            return True
        if failed_at is None:
            return False
        age = now - failed_at
        if self.older_than_seconds is not None and age < timedelta(seconds=self.older_than_seconds):
            return False
        return self.younger_than_seconds is None or age <= timedelta(seconds=self.younger_than_seconds)

    @property
    def is_empty(self) -> bool:
        """Whether every letter is meant."""
        return self == Filter()

    def request(self) -> dict[str, Any]:
        """The filter as it goes on record."""
        parts = {
            "reasons": sorted(self.reasons),
            "types": sorted(self.types),
            "ids": sorted(self.ids),
            "subjects": sorted(self.subjects),
            "older_than_seconds": self.older_than_seconds,
            "younger_than_seconds": self.younger_than_seconds,
        }
        return {name: value for name, value in parts.items() if value}


def is_too_old(letter: DeadLetter, remembered_since: datetime) -> bool:
    """Whether the inbox may have forgotten the message, so that a redrive could do its effect a second time."""
    message_id = letter.id
    return message_id is not None and time_of(message_id) < remembered_since


def redriven_headers(letter: DeadLetter, *, force: bool) -> dict[str, Any]:
    """The headers of a message that starts anew: its failures and the broker's marks are gone, its origin is kept.

    So are CC and BCC: it goes to one place, and a copy elsewhere was made when it was first published.

    ``force`` lets it past the consumer's age check.
    """
    gone = {
        *deadletter.OUTHAUL_HEADERS,
        *deadletter.BROKER_HEADERS,
        *deadletter.ROUTING_HEADERS,
        deadletter.FORCE,
    }
    kept = {name: value for name, value in letter.headers.items() if name not in gone}
    kept[deadletter.EXCHANGE] = letter.letter.exchange
    kept[deadletter.ROUTING_KEY] = letter.letter.routing_key
    if force:
        kept[deadletter.FORCE] = True
    return kept


def destination(letter: DeadLetter, *, queue: str, retry_exchange: str, to_origin: bool) -> tuple[str, str]:
    """Exchange and routing key of a redrive: the one queue it died in, or where it was first published."""
    if to_origin:
        return letter.letter.exchange, letter.letter.routing_key
    return retry_exchange, queue


def _envelope(body: bytes) -> Mapping[str, Any]:
    try:
        envelope = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return envelope if isinstance(envelope, dict) else {}


def _text(envelope: Mapping[str, Any], name: str) -> str:
    value = envelope.get(name)
    return value if isinstance(value, str) else ""

"""The wire format: CloudEvents 1.0, structured mode, JSON (https://github.com/cloudevents/spec).

The sender builds the envelope from the outbox row, so that `id` and `sequence` can be the database's own. The same
row always gives the same bytes: the inbox remembers a hash of them, and a resend must not look like a collision.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring as _quote
from typing import Any
from uuid import UUID

from outhaul.errors import InvalidMessage
from outhaul.ids import is_uuid7
from outhaul.message import JSON

CLOUDEVENTS_JSON = "application/cloudevents+json"
SEQUENCE_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Event:
    """A received message: the CloudEvents context attributes and the data, decoded once.

    ``sequence`` grows with every row of the producer's outbox: of two messages about one aggregate, the one with
    the smaller sequence is the staler. ``data`` is the decoded JSON (or bytes), later replaced by the
    handler's model. ``headers`` are the AMQP headers it came with.
    """

    id: UUID
    type: str
    source: str
    time: datetime | None
    subject: str | None
    sequence: int | None
    causation_id: str | None
    traceparent: str | None
    data: Any
    headers: Mapping[str, Any] = field(default_factory=dict)


def encode(
    *,
    message_id: UUID,
    seq: int,
    event_type: str,
    source: str,
    aggregate_id: str,
    created_at: datetime,
    payload: bytes,
    content_type: str = JSON,
    causation_id: str | None = None,
    traceparent: str | None = None,
) -> bytes:
    """One outbox row as structured CloudEvents JSON. The data's bytes are placed, never parsed again."""
    time = created_at.astimezone(UTC).isoformat(timespec="microseconds")[:-6]
    head = (
        f'{{"specversion":"1.0","id":"{message_id}",{_origin(source, event_type)},'
        f'"subject":{_quote(aggregate_id)},"time":"{time}Z","sequence":"{seq:0{SEQUENCE_DIGITS}d}",'
    )
    if causation_id is not None:
        head += f'"causationid":{_quote(causation_id)},'
    if traceparent is not None:
        head += f'"traceparent":{_quote(traceparent)},'
    head += f'"datacontenttype":{_quote(content_type)},'
    if content_type == JSON:
        return b"".join((head.encode(), b'"data":', payload, b"}"))
    return b"".join((head.encode(), b'"data_base64":"', base64.b64encode(payload), b'"}'))


@lru_cache(maxsize=1024)
def _origin(source: str, event_type: str) -> str:
    return f'"source":{_quote(source)},"type":{_quote(event_type)}'


def decode(body: bytes, headers: Mapping[str, Any] | None = None) -> Event:
    """Bytes from the broker as an Event.

    Raises InvalidMessage with reason ``malformed`` (no JSON in UTF-8), ``not-a-cloudevent`` (a required attribute is
    missing, or one is of the wrong type) or ``invalid-id`` (the id is no UUIDv7).
    """
    try:
        envelope = _read_json(body.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidMessage("malformed", f"body is not JSON: {error}") from error
    if not isinstance(envelope, dict):
        raise InvalidMessage("not-a-cloudevent", f"body is a JSON {type(envelope).__name__}, not an object")
    if envelope.get("specversion") != "1.0":
        raise InvalidMessage("not-a-cloudevent", f"specversion is {_shown(envelope.get('specversion'))}, not '1.0'")
    return Event(
        id=_message_id(envelope.get("id")),
        type=_text(envelope, "type"),
        source=_text(envelope, "source"),
        time=_time(envelope.get("time")),
        subject=_optional_text(envelope, "subject"),
        sequence=_sequence(envelope.get("sequence")),
        causation_id=_optional_text(envelope, "causationid"),
        traceparent=_optional_text(envelope, "traceparent"),
        data=_data(envelope),
        headers=headers or {},
    )


def payload_hash(body: bytes) -> bytes:
    """What the inbox keeps of a message: 32 bytes that differ when the same id comes with another payload."""
    return hashlib.sha256(body).digest()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


# Python's own reader takes NaN and infinities, which are no JSON. One decoder: json.loads would make one a message.
_read_json = json.JSONDecoder(parse_constant=_refuse_constant).decode

# CloudEvents 1.0 allows neither in an attribute. A NUL here would fail the row that a handler records because of it.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def _text(envelope: dict[str, Any], name: str) -> str:
    value = _optional_text(envelope, name)
    if not value:
        raise InvalidMessage("not-a-cloudevent", f"attribute {name!r} is {_shown(value)}, not a non-empty string")
    return value


def _optional_text(envelope: dict[str, Any], name: str) -> str | None:
    value = envelope.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidMessage("not-a-cloudevent", f"attribute {name!r} is {_shown(value)}, not a string")
    if _FORBIDDEN.search(value):
        raise InvalidMessage(
            "not-a-cloudevent", f"attribute {name!r} is {_shown(value)}, with a control character or a lone surrogate"
        )
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:99] + "…"


def _message_id(value: object) -> UUID:
    if value is None:
        raise InvalidMessage("invalid-id", "attribute 'id' is missing")
    if not isinstance(value, str):
        raise InvalidMessage("invalid-id", f"attribute 'id' is a {type(value).__name__}, not a string")
    try:
        message_id = UUID(value)
    except ValueError as error:
        raise InvalidMessage("invalid-id", f"attribute 'id' is {_shown(value)}, not a UUID") from error
    if not is_uuid7(message_id):
        raise InvalidMessage("invalid-id", f"attribute 'id' is {message_id}, not a UUIDv7: it carries no time")
    return message_id


def _time(value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidMessage("not-a-cloudevent", f"attribute 'time' is {_shown(value)}, not a string")
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise InvalidMessage("not-a-cloudevent", f"attribute 'time' is {_shown(value)}, not RFC 3339") from error
    if moment.tzinfo is None:
        raise InvalidMessage("not-a-cloudevent", f"attribute 'time' is {_shown(value)}, without a zone")
    return moment


def _sequence(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or len(value) > SEQUENCE_DIGITS:
        raise InvalidMessage("not-a-cloudevent", f"attribute 'sequence' is {_shown(value)}, not a string of digits")
    return int(value)


def _data(envelope: dict[str, Any]) -> Any:
    if "data_base64" not in envelope:
        return envelope.get("data")
    try:
        return base64.b64decode(envelope["data_base64"], validate=True)
    except (TypeError, ValueError) as error:
        raise InvalidMessage("not-a-cloudevent", f"attribute 'data_base64' is not base64: {error}") from error

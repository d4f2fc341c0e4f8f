"""What a producer hands to the outbox."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from outhaul.errors import ConfigurationError

JSON = "application/json"

# AMQP 0-9-1 carries exchange, routing key and content type as short strings: at most 255 bytes of UTF-8.
SHORT_STRING_BYTES = 255

# All headers of a message travel in one frame, 128 KiB unless agreed otherwise; half is left for what a failure adds.
HEADERS_BYTES = 64 * 1024

# Outhaul's, and those RabbitMQ reads itself: it closes the channel on a CC that is no list.
RESERVED_HEADERS = ("x-outhaul-", "x-death", "x-first-death-", "x-last-death-")
_RABBITMQ_HEADERS = frozenset(("CC", "BCC"))

# CloudEvents 1.0 allows no control characters and no surrogates in its attributes; PostgreSQL's text holds no NUL.
_NOT_A_NAME = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_A_TEXT = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message to record beside the business row that causes it.

    ``type`` is the CloudEvents type with its version (``shop.order.created.v1``); ``routing_key`` decides the
    queues; ``aggregate_id`` names the business object, so that ``outhaul trace`` finds it. ``data`` is a pydantic
    model, a dataclass, a msgspec struct, anything JSON can carry, or ``bytes``: ready-made JSON, or anything together
    with its ``content_type``. ``headers`` travel as AMQP headers. ``exchange`` overrides the outbox's own.
    ``causation_id`` is the id of the message that led to this one, ``traceparent`` a W3C trace context.

    Raises ConfigurationError for a text AMQP, CloudEvents or PostgreSQL cannot carry.
    """

    type: str
    routing_key: str
    data: Any
    aggregate_id: str
    exchange: str | None = None
    headers: Mapping[str, str | int | bool] = field(default_factory=dict)
    content_type: str = JSON
    causation_id: str | None = None
    traceparent: str | None = None

    def __post_init__(self) -> None:
        """Refuse early what the broker or the database would refuse late."""
        check_name("Message.type", self.type)
        check_name("Message.routing_key", self.routing_key, empty_ok=True)
        check_name("Message.aggregate_id", self.aggregate_id)
        check_name("Message.content_type", self.content_type)
        for name in ("exchange", "causation_id", "traceparent"):
            value = getattr(self, name)
            if value is not None:
                check_name(f"Message.{name}", value)
        if self.headers:
            _check_headers(self.headers)

    def payload(self) -> bytes:
        """The data as bytes: JSON in UTF-8, or the bytes themselves. Raises ConfigurationError where it cannot be."""
        if isinstance(self.data, bytes):
            if self.content_type == JSON:
                _check_json(self.data)
            return self.data
        if self.content_type != JSON:
            raise ConfigurationError(
                "Message.content_type",
                self.content_type,
                "data that is not bytes is sent as application/json",
            )
        return encode_json(self.data)


def encode_json(data: Any) -> bytes:
    """JSON in UTF-8 without spaces; models by their own encoder, NaN refused (it is no JSON)."""
    try:
        to_json = getattr(data, "model_dump_json", None)
        if to_json is not None:
            return bytes(to_json(), "utf-8")
        return json.dumps(
            data, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_to_jsonable
        ).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError("Message.data", type(data).__name__, f"cannot be JSON: {error}") from error


def check_name(setting: str, value: object, *, empty_ok: bool = False) -> None:
    """Refuse a text that cannot be an AMQP short string or a CloudEvents attribute. Raises ConfigurationError."""
    if not isinstance(value, str):
        raise ConfigurationError(setting, value, "must be text")
    if not value and not empty_ok:
        raise ConfigurationError(setting, value, "must not be empty")
    length = len(value) if value.isascii() else len(value.encode(errors="replace"))
    if length > SHORT_STRING_BYTES:
        raise ConfigurationError(
            setting, value[:40] + "…", f"is {length} bytes; AMQP carries at most {SHORT_STRING_BYTES}"
        )
    if _NOT_A_NAME.search(value):
        raise ConfigurationError(
            setting, value, "must not contain a control character or a lone surrogate: CloudEvents allows neither"
        )


def _check_headers(headers: Mapping[str, str | int | bool]) -> None:
    size = 0
    for name, value in headers.items():
        check_name("Message.headers", name)
        if name.startswith(RESERVED_HEADERS) or name in _RABBITMQ_HEADERS:
            raise ConfigurationError("Message.headers", name, "is Outhaul's or RabbitMQ's own; choose another name")
        if not _is_header_value(value):
            raise ConfigurationError(
                f"Message.headers[{name!r}]",
                value,
                "must be text without NUL and lone surrogates, a whole number of 64 bits or a boolean",
            )
        size += len(name) + (len(value.encode()) if isinstance(value, str) else 8)
    if size > HEADERS_BYTES:
        raise ConfigurationError(
            "Message.headers",
            f"{len(headers)} headers",
            f"are {size} bytes together; at most {HEADERS_BYTES} fit beside what a failure adds: put it into the data",
        )


def _is_header_value(value: object) -> bool:
    if isinstance(value, str):
        return _NOT_A_TEXT.search(value) is None
    return isinstance(value, int) and -(2**63) <= value < 2**63


def _check_json(data: bytes) -> None:
    try:
        # Decoded by hand: json.loads would take UTF-16 too, which is not what the envelope around it is written in.
        json.loads(data.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(
            "Message.data",
            f"{len(data)} bytes",
            f"are not JSON ({error}); say what they are by content_type, such as application/octet-stream",
        ) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _to_jsonable(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, UUID | Decimal):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(type(value), "__struct_fields__"):
        import msgspec  # noqa: PLC0415 - an extra, which whoever made the struct has

        return msgspec.to_builtins(value)  # by its own names and tags, which decoding will look for
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form")

"""What a producer hands to the outbox."""

from __future__ import annotations

import dataclasses
import json
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message to record beside the business row that causes it.

    ``type`` is the CloudEvents type with its version (``shop.order.created.v1``); ``routing_key`` decides the
    queues; ``aggregate_id`` names the business object, so that ``outhaul trace`` finds it. ``data`` is a pydantic
    model, a dataclass, a msgspec struct, anything JSON can carry, or ``bytes`` together with a ``content_type``.
    ``headers`` travel as AMQP headers. ``exchange`` overrides the outbox's own. ``causation_id`` is the id of
    the message that led to this one, ``traceparent`` a W3C trace context.

    Raises ConfigurationError for a text AMQP or PostgreSQL cannot carry.
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
        for name in ("type", "routing_key", "aggregate_id", "content_type"):
            _check_short(f"Message.{name}", getattr(self, name), empty_ok=name == "routing_key")
        if self.exchange is not None:
            _check_short("Message.exchange", self.exchange, empty_ok=False)
        for name in ("causation_id", "traceparent"):
            if getattr(self, name) is not None:
                _check_short(f"Message.{name}", getattr(self, name), empty_ok=False)
        for name, value in self.headers.items():
            _check_short("Message.headers", name, empty_ok=False)
            if not _is_header_value(value):
                raise ConfigurationError(
                    f"Message.headers[{name!r}]",
                    value,
                    "must be text without NUL, a whole number or a boolean",
                )
            if name.startswith(RESERVED_HEADER_PREFIX):
                raise ConfigurationError(
                    "Message.headers",
                    name,
                    f"names starting with {RESERVED_HEADER_PREFIX!r} are Outhaul's own",
                )

    def payload(self) -> bytes:
        """The data as bytes: JSON in UTF-8, or the bytes themselves."""
        if isinstance(self.data, bytes):
            return self.data
        if self.content_type != JSON:
            raise ConfigurationError(
                "Message.content_type",
                self.content_type,
                "data that is not bytes is sent as application/json",
            )
        return encode_json(self.data)


RESERVED_HEADER_PREFIX = "x-outhaul-"


def encode_json(data: Any) -> bytes:
    """JSON in UTF-8 without spaces; models by their own encoder, NaN refused (it is no JSON)."""
    to_json = getattr(data, "model_dump_json", None)
    if to_json is not None:
        return bytes(to_json(), "utf-8")
    try:
        return json.dumps(
            data, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_to_jsonable
        ).encode()
    except (TypeError, ValueError) as error:
        raise ConfigurationError("Message.data", type(data).__name__, f"cannot be JSON: {error}") from error


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
    fields = getattr(type(value), "__struct_fields__", None)
    if fields is not None:
        return {name: getattr(value, name) for name in fields}
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _is_header_value(value: object) -> bool:
    return "\x00" not in value if isinstance(value, str) else isinstance(value, int)


def _check_short(setting: str, value: object, *, empty_ok: bool) -> None:
    if not isinstance(value, str):
        raise ConfigurationError(setting, value, "must be text")
    if not value and not empty_ok:
        raise ConfigurationError(setting, value, "must not be empty")
    if "\x00" in value:
        raise ConfigurationError(setting, value, "must not contain NUL: PostgreSQL text cannot hold it")
    try:
        length = len(value.encode())
    except UnicodeEncodeError as error:
        raise ConfigurationError(setting, value, "must be valid Unicode without lone surrogates") from error
    if length > SHORT_STRING_BYTES:
        raise ConfigurationError(
            setting, value[:40] + "…", f"is {length} bytes; AMQP carries at most {SHORT_STRING_BYTES}"
        )

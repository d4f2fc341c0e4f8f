"""Which function takes which type of message, and how its data becomes the model the function wants."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, is_typeddict

from outhaul.deadletter import Reason, describe_error
from outhaul.errors import ConfigurationError, InvalidMessage

Decode = Callable[[Any], Any]
_VERSION = re.compile(r"^(.+)\.v\d+$")


@dataclass(frozen=True, slots=True)
class Handler:
    """One registered function. ``batch``: it takes a list of messages; ``is_async``: it must be awaited."""

    type: str
    function: Callable[[Any, Any], Any]
    decode: Decode | None
    batch: bool
    is_async: bool


class Registry:
    """The handlers of one consumer, by exact CloudEvents type. All sync or all async: they run in different places."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def __len__(self) -> int:
        return len(self._handlers)

    @property
    def types(self) -> tuple[str, ...]:
        """The types that have a handler."""
        return tuple(self._handlers)

    @property
    def is_async(self) -> bool:
        """Whether the handlers are coroutine functions."""
        return any(handler.is_async for handler in self._handlers.values())

    def add(self, event_type: str, function: Callable[[Any, Any], Any], *, data: Any, batch: bool) -> None:
        """Register; raises ConfigurationError for a second handler of a type, or sync and async mixed."""
        if not event_type:
            raise ConfigurationError("handler type", event_type, "write the CloudEvents type: shop.order.created.v1")
        if event_type in self._handlers:
            raise ConfigurationError("handler type", event_type, "has a handler already; one function takes one type")
        is_async = _is_async(function)
        if self._handlers and is_async != self.is_async:
            raise ConfigurationError(
                "handler", getattr(function, "__name__", function), "handlers of one consumer are all sync or all async"
            )
        self._handlers[event_type] = Handler(event_type, function, decoder_of(data), batch, is_async)

    def find(self, event_type: str) -> Handler:
        """The handler of exactly this type. Raises InvalidMessage ``unknown-type``, or ``unknown-version`` where
        another version of the type has a handler.
        """
        handler = self._handlers.get(event_type)
        if handler is not None:
            return handler
        known = ", ".join(sorted(self._handlers)) or "none"
        detail = f"no handler for {event_type[:200]!r}; this consumer takes {known}"
        raise InvalidMessage(Reason.UNKNOWN_VERSION if self._has_sibling(event_type) else Reason.UNKNOWN_TYPE, detail)

    def _has_sibling(self, event_type: str) -> bool:
        stem = _stem(event_type)
        return stem is not None and any(_stem(name) == stem for name in self._handlers)


def _is_async(function: Any) -> bool:
    """A coroutine function, or an object whose ``__call__`` is one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _stem(event_type: str) -> str | None:
    version = _VERSION.match(event_type)
    return version[1] if version else None


def decode_data(handler: Handler, raw: Any) -> Any:
    """The data as the handler's model. Raises InvalidMessage ``invalid-data``, the model's own error as its cause."""
    if handler.decode is None:
        return raw
    try:
        return handler.decode(raw)
    except InvalidMessage:
        raise
    except Exception as error:  # a model may be any callable, and whatever it raises means that the data does not fit
        raise InvalidMessage(Reason.INVALID_DATA, describe_error(error)) from error


def decoder_of(data: Any) -> Decode | None:
    """How raw data becomes ``data``: None or ``Any`` passes it through, ``dict`` wants an object, a pydantic model
    validates, a dataclass, TypedDict, NamedTuple or msgspec Struct goes through msgspec, any other callable is called.

    Raises ConfigurationError where msgspec is needed and not installed, or ``data`` is none of these.
    """
    if data is None or data is Any:
        return None
    if data is dict:
        return _an_object
    validate = getattr(data, "model_validate", None)
    if validate is not None:
        return validate  # type: ignore[no-any-return] # pydantic's classmethod, found by name so that it is not imported
    if _is_schema(data):
        return _through_msgspec(data)
    if callable(data):
        return data  # type: ignore[no-any-return] # whatever a user's callable returns is the message's data
    raise ConfigurationError(
        "handler data", data, "give a pydantic model, a dataclass, a msgspec Struct, dict or a callable"
    )


def _is_schema(data: Any) -> bool:
    if not isinstance(data, type) and not is_typeddict(data):
        # list[Order], Order | None and the like
        return getattr(data, "__origin__", None) is not None or getattr(data, "__args__", None) is not None
    return (
        dataclasses.is_dataclass(data)
        or is_typeddict(data)
        or hasattr(data, "__struct_fields__")
        or hasattr(data, "__attrs_attrs__")
        or (issubclass(data, tuple) and hasattr(data, "_fields"))
    )


def _through_msgspec(model: Any) -> Decode:
    try:
        import msgspec  # noqa: PLC0415 - an extra: only consumers with such models need it
    except ImportError as error:
        raise ConfigurationError(
            "handler data",
            getattr(model, "__name__", str(model)),
            "decoding into this needs msgspec: install outhaul[msgspec], or use a pydantic model or a callable",
        ) from error

    def decode(raw: Any) -> Any:
        return msgspec.convert(raw, model)

    try:
        msgspec.json.schema(model)
    except TypeError as error:
        # Found at registration: at run time it would look like every message's own fault.
        raise ConfigurationError("handler data", getattr(model, "__name__", str(model)), f"msgspec: {error}") from error
    return decode


def _an_object(raw: Any) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        raise InvalidMessage(Reason.INVALID_DATA, f"data is a JSON {type(raw).__name__}, not an object")
    return raw

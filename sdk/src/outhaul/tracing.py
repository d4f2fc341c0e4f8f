"""OpenTelemetry, where the application uses it: a message carries its trace on, and is handled within it.

Looked for, never imported: who traces has imported ``opentelemetry.trace``, and nobody else pays for it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from outhaul.context import current_cause
from outhaul.events import Event

_NOTHING = nullcontext()


def current_traceparent() -> str | None:
    """What a message recorded now belongs to: the current span, else the trace of the message being handled."""
    api = _api()
    if api is not None:
        span = api.get_current_span().get_span_context()
        if span.is_valid:
            return f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags):02x}"
    cause = current_cause()
    return cause.traceparent if cause else None


def handling(events: Sequence[Event], *, batch: bool = False) -> AbstractContextManager[None]:
    """A span around a handler. One message's is a child of the span it was recorded in; a batch's is linked to each."""
    api = _api()
    return _NOTHING if api is None else _span(api, events, batch=batch)


@contextmanager
def _span(api: Any, events: Sequence[Event], *, batch: bool) -> Iterator[None]:
    first = events[0]
    attributes: dict[str, str | int] = {"messaging.system": "rabbitmq", "messaging.operation.type": "process"}
    if batch:
        origins = [api.get_current_span(_context(event)).get_span_context() for event in events if event.traceparent]
        how = {"links": [api.Link(origin) for origin in origins if origin.is_valid]}
        attributes["messaging.batch.message_count"] = len(events)
    else:
        how = {"context": _context(first)}
        attributes["messaging.message.id"] = str(first.id)
    tracer = api.get_tracer("outhaul")
    name = f"process {first.type}"
    with tracer.start_as_current_span(name, kind=api.SpanKind.CONSUMER, attributes=attributes, **how):
        yield


def _context(event: Event) -> Any:
    """The context of the span a message was recorded in; an empty one where it tells none, or none that is valid."""
    module = importlib.import_module("opentelemetry.trace.propagation.tracecontext")
    nothing = importlib.import_module("opentelemetry.context").Context()
    carrier = {"traceparent": event.traceparent} if event.traceparent else {}
    return module.TraceContextTextMapPropagator().extract(carrier, context=nothing)


def _api() -> Any:
    return sys.modules.get("opentelemetry.trace")

"""OpenTelemetry, with its API alone: what a message carries on, and what a handler runs in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from consuming import TYPE, Database, body, prepare
from outbox_support import OUTBOX, created
from outhaul import Consumer
from outhaul.consuming.delivery import Delivery
from outhaul.events import Event
from outhaul.tracing import current_traceparent

trace = pytest.importorskip("opentelemetry.trace", reason="opentelemetry-api is not installed")

TRACE = 0x0AF7651916CD43DD8448EB211C80319C
PARENT = f"00-{TRACE:032x}-b7ad6b7169203331-01"


@contextmanager
def span(number: int) -> Iterator[str]:
    """Inside a span of the trace; tells its traceparent."""
    context = trace.SpanContext(TRACE, number, is_remote=False, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(context)):
        yield f"00-{TRACE:032x}-{number:016x}-01"


@pytest.fixture
def database(make_database: Any) -> Database:
    return prepare(make_database(("outbox", "inbox")))


def consumer(database: Database) -> Consumer:
    return Consumer("shipping", queue="q", dsn=database.dsn, amqp_url="amqp://guest:guest@127.0.0.1/%2F")


def recorded(database: Database) -> list[str | None]:
    return [row[0] for row in database.query("SELECT traceparent FROM outbox ORDER BY seq")]


def incoming(traceparent: str | None = PARENT) -> Delivery:
    event_id, content = body({"order": 1}, traceparent=traceparent)
    return Delivery(content, message_id=str(event_id))


def test_a_message_recorded_in_a_span_carries_it_and_its_own_word_wins(database: Database) -> None:
    with psycopg.connect(database.dsn) as conn:
        OUTBOX.add(conn, created(1))
        with span(7) as inside:
            OUTBOX.add(conn, created(2), created(3, traceparent=PARENT))
            assert OUTBOX.statement(created(4))[1]["outbox_traceparent"] == inside
    assert recorded(database) == [None, inside, PARENT]


def test_a_handler_runs_in_the_trace_of_its_message_and_so_does_what_it_records(database: Database) -> None:
    seen: list[int] = []
    shipping = consumer(database)

    @shipping.handler(TYPE)
    def handle(message: Event, tx: psycopg.Connection[Any]) -> None:
        seen.append(trace.get_current_span().get_span_context().trace_id)
        OUTBOX.add(tx, created(1))

    with psycopg.connect(database.dsn) as conn, span(9):  # whatever runs around the consumer is not the message's
        shipping.process(conn, [incoming()])
    assert seen == [TRACE]
    [carried] = recorded(database)
    assert carried is not None
    assert carried.startswith(f"00-{TRACE:032x}-")


@pytest.mark.parametrize("given", [None, "nonsense", f"00-{0:032x}-{0:016x}-00"])
def test_a_message_without_a_usable_trace_is_handled_all_the_same(database: Database, given: str | None) -> None:
    handled: list[str | None] = []
    shipping = consumer(database)

    @shipping.handler(TYPE)
    def handle(message: Event, tx: psycopg.Connection[Any]) -> None:
        handled.append(current_traceparent())

    with psycopg.connect(database.dsn) as conn:
        shipping.process(conn, [incoming(given)])
    assert handled == [given]


def test_a_batch_runs_in_a_span_of_its_own_linked_to_each_message(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    links: list[Any] = []

    class Tracer(trace.NoOpTracer):  # type: ignore[misc, name-defined]  # found at run time, hence untyped
        def start_span(self, name: str, *arguments: Any, **how: Any) -> Any:
            links.extend(how["links"])
            return super().start_span(name, *arguments, **how)

    monkeypatch.setattr(trace, "get_tracer", lambda _: Tracer())
    shipping = consumer(database)
    handled: list[int] = []

    @shipping.batch_handler(TYPE)
    def handle(messages: Sequence[Event], tx: psycopg.Connection[Any]) -> None:
        handled.append(len(messages))

    with psycopg.connect(database.dsn) as conn:
        shipping.process(conn, [incoming(), incoming(None), incoming()])
    assert handled == [3]
    assert [link.context.trace_id for link in links] == [TRACE, TRACE]


def test_the_library_imports_no_tracing_by_itself() -> None:
    code = "import sys, outhaul, outhaul.sender, outhaul.consumer; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"

"""`outhaul resend`: the sender's work where no sender lives."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, LiteralString
from uuid import UUID

import click

from outhaul.alerts import Alerter
from outhaul.cli import options
from outhaul.cli.exit_codes import FINDING, UNREACHABLE
from outhaul.cli.output import clean, write_json
from outhaul.cli.parts import Connection, Parts
from outhaul.cli.teach import teach
from outhaul.ids import first_at
from outhaul.resend import ResendProgress, ResendRequest, ResendResult, resend_once, watch
from outhaul.sender import Sender
from outhaul.settings import BrokerSettings, DatabaseSettings

# Rows that a run could take, and those a live sender holds or has put off.
_COUNT: LiteralString = """
SELECT count(*) FILTER (WHERE free), count(*) FILTER (WHERE NOT free)
FROM (
    SELECT status = 'parked' OR lease_token IS NULL OR available_at <= (SELECT clock_timestamp()) AS free
    FROM outbox WHERE (%(ids)s::uuid[] IS NULL OR message_id = ANY(%(ids)s))
      AND (%(first)s::uuid IS NULL OR (message_id >= %(first)s AND message_id < %(last)s))
      AND (%(status)s::text IS NULL OR status = %(status)s)
) AS meant"""

_INSTANT = click.DateTime(["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S%z"])


@click.command(
    epilog=teach(
        "outhaul resend",
        "outhaul resend --parked --run-id ticket-4711",
        "outhaul resend --limit 1000",
        "outhaul resend --id 0193a1b2-7c4d-7e10-9f00-0123456789ab",
        "outhaul resend --created-from 2026-01-31T10:00:00Z --created-before 2026-01-31T11:00:00Z --dry-run",
        "outhaul resend --watch",
        json='{"run_id", "done_before": bool, "clean": bool, "outage": text, "counts": {"taken", "sent", "refused",\n'
        '  "parked", "not_routed", "refused_by_queue", "unknown"}, "routes": [{"exchange", "routing_key", "reason"}]}\n'
        'with --dry-run: {"dry_run": true, "free": int, "held_by_senders": int}\n'
        'with --watch: one line a change: {"broker", "broker_detail", "database_detail", "sent", "parked",\n'
        '  "broken_routes": [text]}',
    )
)
@click.option("--id", "ids", multiple=True, type=click.UUID, metavar="UUID", help="Only these rows, parked ones too.")
@click.option("--parked", is_flag=True, help="All parked rows; their attempts start anew.")
@click.option("--created-from", type=_INSTANT, metavar="INSTANT", help="Only rows recorded from then on (UTC).")
@click.option("--created-before", type=_INSTANT, metavar="INSTANT", help="Only rows recorded before then (UTC).")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The most rows sent by this run.  [default: all]")
@click.option("--watch", "watching", is_flag=True, help="Go on until SIGTERM or Ctrl-C: a sender of its own.")
@options.duration("--patience", "30s", "Give up after an outage of broker or database that lasts this long.")
@click.option("--dry-run", is_flag=True, help="Show how many rows are meant; send nothing.")
@options.run_id
@options.connections("outbox_dsn", "amqp_url")
@options.output
@click.pass_context
def resend(
    ctx: click.Context,
    /,
    parts: Parts,
    ids: tuple[UUID, ...],
    parked: bool,
    created_from: datetime | None,
    created_before: datetime | None,
    limit: int | None,
    watching: bool,
    dry_run: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Publish rows of the outbox when no sender does.

    Without a choice, every row that nobody holds. It is the sender's own code: a row is marked as sent only
    when the broker has confirmed a routed message. Harmless beside a live sender, and when run twice: rows a
    sender holds are left to it, and a message sent twice has its effect once.

    Ends when nothing is left to send. Exit code 1 when rows remain because a route takes no messages or the
    broker refuses one; 3 when broker or database stay away. On record in the table runs.
    """
    request = replace(_request(ids, parked, created_from, created_before), limit=limit)
    database = parts.database_settings("outbox")
    if watching:
        if request.is_filtered or limit or dry_run or how["run_id"]:
            raise click.UsageError("--watch sends everything and is no single run: leave out the other choices.")
        broker = parts.broker()
        parts.database("outbox")  # a wrong address is told now, not retried for ever
        with _alerts(parts) as alerter:
            asyncio.run(_watch(database, broker, alerter, as_json=as_json))
        return
    if dry_run:
        free, held = _count(parts.database("outbox"), request)
        if as_json:
            write_json({"dry_run": True, "free": free, "held_by_senders": held})
        else:
            bounded = f", at most {limit} of them in one run" if limit else ""
            click.echo(f"{free} rows would be sent{bounded}; {held} more are held by live senders or put off by them.")
        return
    broker = parts.broker()
    with _alerts(parts) as alerter:
        result, stopped = asyncio.run(_once(request, database, broker, alerter, **how))
    _write(result, as_json=as_json)
    if result.outage and not stopped:
        ctx.exit(UNREACHABLE)
    if not result.is_clean:
        ctx.exit(FINDING)


def _request(
    ids: tuple[UUID, ...], parked: bool, created_from: datetime | None, created_before: datetime | None
) -> ResendRequest:
    between = None
    if created_from or created_before:
        if not (created_from and created_before):
            raise click.UsageError("--created-from and --created-before belong together: give both.")
        between = (_utc(created_from), _utc(created_before))
    if sum((bool(ids), parked, between is not None)) > 1:
        raise click.UsageError("choose one of --id, --parked, and --created-from with --created-before.")
    return ResendRequest(message_ids=ids, created_between=between, parked=parked)


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


async def _once(
    request: ResendRequest,
    database: DatabaseSettings,
    broker: BrokerSettings,
    alerter: Alerter,
    *,
    run_id: str | None,
    patience_seconds: float,
) -> tuple[ResendResult, bool]:
    stop = asyncio.Event()
    with _stopped_by_signals(stop):
        result = await resend_once(
            request,
            dsn=database,
            amqp_url=broker,
            run_id=run_id,
            patience_seconds=patience_seconds,
            stop=stop,
            alerter=alerter,
            on_progress=_show_progress,
        )
    return result, stop.is_set()


async def _watch(database: DatabaseSettings, broker: BrokerSettings, alerter: Alerter, *, as_json: bool) -> None:
    stop = asyncio.Event()
    last: dict[str, Any] = {}

    def tell(sender: Sender) -> None:
        state = sender.state()
        names = ("broker", "broker_detail", "database_detail", "sent", "parked")
        routes = [f"{route.exchange!r} by {route.routing_key!r}: {route.reason}" for route in state.routes]
        now = {**{name: getattr(state, name) for name in names}, "broken_routes": routes}
        if now == last:
            return
        last.update(now)
        if as_json:
            click.echo(json.dumps(now))
        else:
            trouble = [text for text in (state.broker_detail, state.database_detail, *routes) if text]
            click.echo("; ".join([f"{state.sent} sent, {state.parked} parked, broker {state.broker}", *trouble]))

    with _stopped_by_signals(stop):
        await watch(dsn=database, amqp_url=broker, stop=stop, on_state=tell, alerter=alerter)


@contextmanager
def _alerts(parts: Parts) -> Iterator[Alerter]:
    """Rows parked by this run are told as a sender's are; what is still untold at the end is posted then."""
    name = "OUTHAUL_ALERT_WEBHOOK_URL"
    alerter = Alerter(parts.environment.text_or_none(name), setting=name)
    try:
        yield alerter
    finally:
        alerter.close()


@contextmanager
def _stopped_by_signals(stop: asyncio.Event) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the run in order: what is in flight is waited for."""
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    try:
        yield
    finally:
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(name)


def _count(conn: Connection, request: ResendRequest) -> tuple[int, int]:
    between = request.created_between
    status = "parked" if request.parked else None if request.is_filtered else "pending"
    meant = {
        "ids": list(request.message_ids) or None,
        "first": first_at(between[0]) if between else None,
        "last": first_at(between[1]) if between else None,
        "status": status,
    }
    row = conn.execute(_COUNT, meant).fetchone()
    return (row[0], row[1]) if row else (0, 0)


def _show_progress(progress: ResendProgress) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{progress.sent} sent of {progress.taken} taken ", err=True, nl=False)


def _write(result: ResendResult, *, as_json: bool) -> None:
    if sys.stderr.isatty():
        click.echo("\r", err=True, nl=False)
    progress = result.progress
    if as_json:
        names = ("run_id", "done_before", "outage")
        routes = [
            {name: getattr(each, name) for name in ("exchange", "routing_key", "reason")} for each in result.routes
        ]
        document = {**{name: getattr(result, name) for name in names}, "clean": result.is_clean, "routes": routes}
        write_json({**document, "counts": progress.document()})
        return
    if result.done_before:
        click.echo(f"Run {result.run_id} was done before; nothing was done now.")
        return
    click.echo(f"{progress.sent} sent.")
    for route in result.routes:
        click.echo(f"left: rows to exchange {route.exchange!r} by {route.routing_key!r}: {clean(route.reason)}")
    if progress.refused:
        click.echo(f"{progress.refused} refused by the broker for themselves, {progress.parked} of them parked.")
    if result.outage:
        click.echo(f"Ended early: {result.outage}. Run it again with --run-id {result.run_id} to go on.")
    click.echo(f"On record as run {result.run_id}.")

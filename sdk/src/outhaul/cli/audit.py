"""`outhaul audit`: both databases against each other."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import Any

import click

from outhaul.broker_admin.depths import look
from outhaul.broker_admin.management import Management
from outhaul.broker_admin.routes import leads_to
from outhaul.cli import options
from outhaul.cli.exit_codes import FINDING
from outhaul.cli.output import instant, write_json
from outhaul.cli.parts import Parts
from outhaul.cli.teach import teach
from outhaul.cli.which import declared_or_none, is_named, queue_name_or_none
from outhaul.tools import audit as audits
from outhaul.tools.audit import Audit, Queues, Scope
from outhaul.tools.dlq import DeadLetterQueue
from outhaul.topology import dead_letter_queue

# The management API's counts are up to five seconds old: a message must have been sent before they were made.
LEAST_GRACE_SECONDS = 10.0
_NUMBERS = (
    ("matched", "sent and took effect"),
    ("elsewhere", "sent by routes that do not lead to this consumer"),
    ("in_flight", "sent within the grace period"),
    ("failing", "delivered, failing, still being tried"),
    ("dead_lettered", "dead letters"),
    ("consumed_unmarked", "took effect, their row not yet marked as sent"),
    ("unsent", "rows not yet sent"),
    ("parked", "rows parked"),
    ("unaccounted", "sent, no effect, no dead letter"),
    ("never_sent", "took effect and were never sent"),
)


@click.command(
    epilog=teach(
        "outhaul audit",
        "outhaul audit --since 2026-01-31T00:00:00Z --grace 5m",
        "outhaul audit --outbox-dsn postgresql://reader@a/shop --inbox-dsn postgresql://reader@b/shipping \\",
        "  --consumer shipping --type shop.order.created.v1 --output json",
        json='{"consumer", "since", "until", "grace_seconds", "clean": bool, "lost": int or null (unknown),\n'
        '  "matched", "elsewhere", "in_flight", "failing", "dead_lettered", "consumed_unmarked", "unsent", "parked",\n'
        '  "unaccounted", "never_sent": int, "waiting": int or null, "unaccounted_ids": [], "never_sent_ids": []}',
    )
)
@options.duration("--grace", "1m", "What was sent within this time is in flight; at least 10s.")
@click.option(
    "--since",
    metavar="INSTANT",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d"]),
    help="Compare from this instant on (UTC); default: as far back as both sides remember.",
)
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only messages of this type were meant for it.")
@click.option(
    "--examples", default=20, show_default=True, metavar="N", type=click.IntRange(0, 10_000), help="The most ids shown."
)
@click.option(
    "--scan",
    default=100_000,
    show_default=True,
    metavar="N",
    type=click.IntRange(0),
    help="The most dead letters looked at.",
)
@options.connections("outbox_dsn", "inbox_dsn", "amqp_url", "management_url")
@options.queue_options
@options.consumer
@options.output
@click.pass_context
def audit(
    ctx: click.Context,
    /,
    parts: Parts,
    queue: str | None,
    topology: str | None,
    consumer: str | None,
    as_json: bool,
    **bounds: Any,
) -> None:
    """Compare both databases: sent but without effect, or of effect but never sent?

    Reads both histories page by page in constant memory, without a long snapshot, so it may run beside the
    load. With --amqp-url and --management-url it tells what is lost from what still waits in a queue or is a
    dead letter; without them it cannot, and says so. With --topology, only routes that lead to the queue count.

    Exit code 1 when something is lost, came from nowhere, or cannot be told.
    """
    if bounds["grace_seconds"] < LEAST_GRACE_SECONDS:
        raise click.UsageError(
            f"--grace must be at least {LEAST_GRACE_SECONDS:g}s: the broker's counts may be that old."
        )
    outbox, inbox = parts.database("outbox"), parts.database("inbox")
    name = queue_name_or_none(parts, queue, topology)
    # One that merely happens to be installed may have nothing to do with these databases.
    declared = declared_or_none(parts, topology) if is_named(parts, topology) else None
    is_declared = declared is not None and any(binding.queue == name for binding in declared.bindings)
    since: datetime | None = bounds["since"]
    scope = Scope(
        consumer=consumer or audits.only_consumer(inbox),
        grace_seconds=bounds["grace_seconds"],
        since=since.replace(tzinfo=since.tzinfo or UTC) if since else None,
        types=bounds["types"],
        routed=leads_to(declared, name) if is_declared and declared and name else audits.every_route,
        examples=bounds["examples"],
    )
    result = audits.audit(outbox, inbox, scope, _queues(parts, name, bounds["scan"]))
    if as_json:
        write_json(_document(result))
    else:
        _write(result)
    if not result.is_clean:
        ctx.exit(FINDING)


def _queues(parts: Parts, queue: str | None, scan: int) -> Queues:
    """Depths first, then letters: what is dead-lettered in between is counted twice rather than called lost."""
    broker, management = parts.broker_or_none(), parts.management_or_none()
    if broker is None or queue is None:
        return Queues()
    waiting = look(Management(management, virtual_host=broker.virtual_host), queue).waiting if management else None
    with DeadLetterQueue(broker, dead_letter_queue(queue)) as letters:
        ready = letters.depth()
        found = [letter.id for letter in islice(letters.letters(), scan)]
        letters.give_back()
    dead = frozenset(message_id for message_id in found if message_id is not None)
    return Queues(waiting=waiting, dead=dead, dead_unread=max(0, ready - len(found)) if len(found) == scan else 0)


def _document(result: Audit) -> dict[str, Any]:
    plain = ("consumer", "since", "until", "grace_seconds", "lost", "waiting", "unaccounted_ids", "never_sent_ids")
    return {
        **{name: getattr(result, name) for name in plain},
        "clean": result.is_clean,
        **{name: getattr(result, name) for name, _ in _NUMBERS},
    }


def _write(result: Audit) -> None:
    back = "the beginning" if result.since.year == 1970 else instant(result.since)
    click.echo(f"consumer {result.consumer!r}, from {back} to {instant(result.until)}")
    for name, meaning in _NUMBERS:
        click.echo(f"{getattr(result, name):>12}  {meaning}")
    waiting = "unknown (give --amqp-url and --management-url)" if result.waiting is None else str(result.waiting)
    click.echo(f"waiting in the queue and its delay tiers when this began: {waiting}")
    for message_id in result.unaccounted_ids:
        click.echo(f"unaccounted for: {message_id}")
    for message_id in result.never_sent_ids:
        click.echo(f"never sent: {message_id}")
    if result.lost is None:
        click.echo(f"Of {result.unaccounted} it cannot be told whether they are lost or wait in a queue.")
    elif result.lost:
        click.echo(
            click.style(f"Lost: {result.lost}.", fg="red", bold=True) + " `outhaul trace ID` tells what is known."
        )
    elif result.never_sent:
        click.echo(click.style(f"From nowhere: {result.never_sent}.", fg="red", bold=True))
    elif result.unaccounted:
        click.echo(
            f"Lost: none for certain; {result.unaccounted} may wait in the queue. Run this again when it is empty."
        )
    else:
        click.echo(click.style("Lost: none.", fg="green", bold=True))

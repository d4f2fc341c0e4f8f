"""`outhaul status`: one look."""

from __future__ import annotations

from typing import Any

import click

from outhaul.broker_admin.depths import Depths, look
from outhaul.broker_admin.management import Management
from outhaul.cli import options
from outhaul.cli.exit_codes import FINDING, UNREACHABLE
from outhaul.cli.output import age, write_findings, write_json
from outhaul.cli.parts import MissingSetting, Parts
from outhaul.cli.teach import teach
from outhaul.cli.which import queue_name_or_none
from outhaul.database import runs
from outhaul.errors import Unreachable
from outhaul.tools.findings import Finding, Level, need_somebody
from outhaul.tools.status import ConsumerStatus, OutboxStatus, judge, read_inbox, read_outbox


@click.command(
    epilog=teach(
        "outhaul status",
        "outhaul status --outbox-dsn postgresql://reader@db/shop --stuck-after 5m",
        "outhaul status --output json",
        json='{"findings": [{"check", "level": "ok|skipped|warning|problem", "text", "remedy"}],\n'
        '  "outbox": {"counts", "senders", "troubled_routes", "parked_reasons", "sent_lately"} or null,\n'
        '  "inbox": [{"consumer", "consumed_lately", "failing", "most_started", "most_failed"}] or null,\n'
        '  "queues": {"main": depth, "dead": depth, "tiers": [depth]} or null,\n'
        '  "runs": [{"run_id", "kind", "actor", "request", "state", "counts", "detail",\n'
        '    "started_at", "finished_at"}]}\n'
        'depth: {"name", "ready", "unacked", "awaiting_dead_lettering", "consumers"}',
    )
)
@options.duration("--stuck-after", "1m", "A row that is free and older than this is called stuck.")
@options.connections("outbox_dsn", "inbox_dsn", "amqp_url", "management_url")
@options.queue_options
@options.consumer
@options.output
@click.pass_context
def status(
    ctx: click.Context,
    /,
    parts: Parts,
    queue: str | None,
    topology: str | None,
    consumer: str | None,
    stuck_after_seconds: float,
    as_json: bool,
) -> None:
    """What waits, what is stuck, who sends and who consumes.

    Looks at whatever is given: the producer's database, the consumer's, the broker. Queues are seen through
    the management API, whose numbers may be five seconds old.

    Exit code 1 when something needs a person: stuck or parked rows, dead letters, nobody sending or consuming.
    Exit code 3 when a part cannot be reached; what the others tell is shown all the same.
    """
    outbox: OutboxStatus | None = None
    inbox: tuple[ConsumerStatus, ...] | None = None
    recent: list[runs.Run] = []
    if (conn := parts.database_or_none("outbox")) is not None:
        outbox = read_outbox(conn, stuck_after_seconds=stuck_after_seconds)
        recent += runs.recent(conn)
    if (conn := parts.database_or_none("inbox")) is not None:
        inbox = read_inbox(conn, consumer)
        recent += [run for run in runs.recent(conn) if run not in recent]
    name = queue_name_or_none(parts, queue, topology)
    away: list[Finding] = []
    depths = None
    try:
        depths = _depths(parts, name)
    except Unreachable as error:  # what the databases tell is worth more when the broker is away
        away.append(Finding("broker", Level.PROBLEM, f"{error.address}: {error.why}", error.remedy))
    if outbox is None and inbox is None and depths is None and not away:
        raise MissingSetting(
            "what to look at",
            "--outbox-dsn, --inbox-dsn, or --amqp-url with --management-url and --queue",
            ("OUTHAUL_OUTBOX_DATABASE_URL", "OUTHAUL_INBOX_DATABASE_URL", "OUTHAUL_MANAGEMENT_URL"),
        )
    findings = [*judge(outbox=outbox, inbox=inbox, queue=name or "", depths=depths), *away]
    if as_json:
        write_json({"findings": findings, "outbox": _outbox(outbox), "inbox": inbox, "queues": depths, "runs": recent})
    else:
        _write(outbox, findings, recent)
    if away:
        ctx.exit(UNREACHABLE)
    if need_somebody(findings):
        ctx.exit(FINDING)


def _depths(parts: Parts, queue: str | None) -> Depths | None:
    """The queues, where the broker, its management API and the queue's name are all known."""
    broker, management = parts.broker_or_none(), parts.management_or_none()
    if broker is None or management is None or queue is None:
        return None
    return look(Management(management, virtual_host=broker.virtual_host), queue)


def _outbox(status: OutboxStatus | None) -> dict[str, Any] | None:
    if status is None:
        return None
    return {
        "counts": status.counts,
        "senders": [sender._asdict() for sender in status.senders],
        "troubled_routes": [route._asdict() for route in status.troubled_routes],
        "parked_reasons": dict(status.parked_reasons),
        "sent_lately": status.sent_lately,
    }


def _write(outbox: OutboxStatus | None, findings: list[Any], recent: list[runs.Run]) -> None:
    if outbox is not None:
        counts = outbox.counts
        click.echo(
            f"outbox: {counts.pending} pending ({counts.free} free, {counts.leased} held by senders), "
            f"{counts.parked} parked; oldest {age(counts.oldest_age_seconds) if counts.oldest_at else '-'}; "
            f"{outbox.sent_lately} of the last five minutes sent"
        )
        for sender in outbox.senders:
            seen = age((counts.at - sender.seen_at).total_seconds())
            click.echo(f"sender: {sender.name} on {sender.host}, {sender.state}, heard of {seen} ago")
    write_findings(findings)
    for run in recent[:5]:
        moved = ", ".join(f"{count} {name}" for name, count in run.counts.items() if count) or "nothing"
        click.echo(f"run: {run.kind} {run.run_id} by {run.actor}: {run.state}, {moved}")

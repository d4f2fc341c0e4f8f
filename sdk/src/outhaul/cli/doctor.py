"""`outhaul doctor`: is everything as it should be?"""

from __future__ import annotations

import click

from outhaul.cli import options
from outhaul.cli.exit_codes import FINDING, UNREACHABLE
from outhaul.cli.output import write_findings, write_json
from outhaul.cli.parts import Parts
from outhaul.cli.teach import teach
from outhaul.cli.which import declared_or_none, queue_name_or_none
from outhaul.tools import doctor as doctors
from outhaul.tools.findings import Level, need_somebody


@click.command(
    epilog=teach(
        "outhaul doctor",
        "outhaul doctor --amqp-url amqp://user:password@broker/shop --management-url http://user:password@broker:15672",
        "outhaul doctor --output json | jq '.findings[] | select(.level == \"problem\")'",
        json='{"findings": [{"check", "level": "ok|skipped|warning|problem", "text", "remedy"}], "unreachable": bool}',
    )
)
@options.duration("--long-transaction", "5m", "A transaction open for longer holds back vacuum, and is named.")
@options.connections("outbox_dsn", "inbox_dsn", "amqp_url", "management_url")
@options.queue_options
@options.output
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    parts: Parts,
    queue: str | None,
    topology: str | None,
    long_transaction_seconds: float,
    as_json: bool,
) -> None:
    """Look at everything that is given; say what is wrong and what helps.

    Settings; both databases with their schema, partitions and transactions that hold back vacuum; senders; the
    broker with its alarms; the topology and its policies; queues, consumers and dead letters. Changes nothing.

    Exit code 3 when a part cannot be reached, else 1 when something needs a person.
    """
    found = doctors.examine(
        environment=parts.environment,
        outbox=lambda: parts.database_or_none("outbox"),
        inbox=lambda: parts.database_or_none("inbox"),
        broker=parts.broker_or_none,
        management=parts.management_or_none,
        topology=lambda: declared_or_none(parts, topology),
        queue=lambda: queue_name_or_none(parts, queue, topology),
        long_transaction_seconds=long_transaction_seconds,
    )
    if as_json:
        write_json({"findings": found.findings, "unreachable": found.unreachable})
    else:
        write_findings(found.findings)
        levels = [finding.level for finding in found.findings]
        told = ", ".join(f"{levels.count(level)} {level.value}" for level in Level if level in levels)
        click.echo(f"\n{told}")
    if found.unreachable:
        ctx.exit(UNREACHABLE)
    if need_somebody(found.findings):
        ctx.exit(FINDING)

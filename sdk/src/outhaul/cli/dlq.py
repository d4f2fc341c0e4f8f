"""`outhaul dlq`: dead letters, one queue at a time."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from itertools import islice
from typing import Any

import click

from outhaul.cli import dlq_output, options
from outhaul.cli.exit_codes import FINDING
from outhaul.cli.output import write_json
from outhaul.cli.parts import Parts
from outhaul.cli.teach import teach
from outhaul.tools.dlq import DeadLetterQueue
from outhaul.tools.letters import Filter
from outhaul.tools.redrive import Order
from outhaul.tools.redrive import discard as discard_letters
from outhaul.tools.redrive import redrive as redrive_letters
from outhaul.topology import dead_letter_queue

Command = Callable[..., Any]

_LETTER = (
    '{"message_id", "type", "subject", "reason", "error", "failed": int, "first_failed_at", "last_failed_at",\n'
    '  "exchange", "routing_key", "consumer", "bytes": int, "sha256"}'
)
_MOVED = (
    '{"run_id", "dry_run": bool, "done_before": bool, "problem", "letters": [letter, the first 20],\n'
    '  "counts": {"seen", "matched", "moved", "too_old", "not_taken", "came_back"}}'
)


def _filters(command: Command) -> Command:
    """The options that say which letters are meant; the command gets ``chosen``."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        chosen = Filter(
            reasons=kwargs.pop("died_of"),
            types=kwargs.pop("types"),
            ids=tuple(text.lower() for text in kwargs.pop("ids")),
            subjects=kwargs.pop("aggregates"),
            older_than_seconds=kwargs.pop("older_than_seconds"),
            younger_than_seconds=kwargs.pop("younger_than_seconds"),
        )
        return command(*args, chosen=chosen, **kwargs)

    decorated: Command = run
    for decorate in (
        options.duration("--younger-than", None, "Only letters whose last failure was within this time."),
        options.duration("--older-than", None, "Only letters whose last failure is longer ago than this."),
        click.option("--aggregate", "aggregates", multiple=True, metavar="ID", help="Only of this business object."),
        click.option("--id", "ids", multiple=True, metavar="UUID", help="Only these messages."),
        click.option("--type", "types", multiple=True, metavar="TYPE", help="Only messages of this type."),
        click.option("--died-of", multiple=True, metavar="REASON", help="Only letters with this reason."),
    ):
        decorated = decorate(decorated)
    return decorated


_scan = click.option(
    "--scan",
    default=100_000,
    show_default=True,
    metavar="N",
    type=click.IntRange(1),
    help="The most letters looked at.",
)


@click.group()
def dlq() -> None:
    """List, show, redrive and discard dead letters.

    A letter is a message its consumer gave up, with the reason on it. Looking at letters never loses one. A
    letter is moved only after the broker has confirmed its message, or its discard is on record; a run that
    is cut short can be started again with the same --run-id.
    """


@dlq.command(
    name="list",
    epilog=teach(
        "outhaul dlq list",
        "outhaul dlq list --died-of exhausted --older-than 1h",
        "outhaul dlq list --queue shop.waybill --amqp-url amqp://user:password@broker/shop --output json",
        json='{"queue", "ready": int, "seen": int, "by_reason": {reason: int}, "letters": [letter]}\nletter: '
        + _LETTER,
    ),
)
@_filters
@click.option(
    "--limit", default=50, show_default=True, metavar="N", type=click.IntRange(1), help="The most letters shown."
)
@_scan
@options.connections("amqp_url")
@options.queue
@options.output
@click.pass_context
def list_(ctx: click.Context, parts: Parts, queue: str, chosen: Filter, limit: int, scan: int, as_json: bool) -> None:
    """Show letters, oldest first, and how many there are of each reason.

    Exit code 1 when there is any.
    """
    now = datetime.now(UTC)
    shown: list[dict[str, Any]] = []
    reasons: Counter[str] = Counter()
    seen = 0
    with DeadLetterQueue(parts.broker(), dead_letter_queue(queue)) as letters:
        ready = letters.depth()
        for letter in islice(letters.letters(), scan):
            seen += 1
            if chosen.matches(letter, now):
                reasons[letter.letter.reason] += 1
                if len(shown) < limit:
                    shown.append(letter.summary())
        letters.give_back()
    if as_json:
        document = {
            "queue": dead_letter_queue(queue),
            "ready": ready,
            "seen": seen,
            "by_reason": reasons,
            "letters": shown,
        }
        write_json(document)
    elif not reasons:
        click.echo(f"No dead letters in {dead_letter_queue(queue)}" + ("" if chosen.is_empty else " that match."))
    else:
        dlq_output.write_letters(shown)
        counted = ", ".join(f"{count} {reason or 'without a reason'}" for reason, count in reasons.most_common())
        click.echo(f"\n{len(shown)} of {reasons.total()} shown: {counted}")
    if reasons:
        ctx.exit(FINDING)


@dlq.command(
    epilog=teach(
        "outhaul dlq show 0193a1b2-7c4d-7e10-9f00-0123456789ab",
        "outhaul dlq show 0193a1b2-7c4d-7e10-9f00-0123456789ab --raw > payload.json",
        json='{"letters": [letter with "headers": {} and "payload": any]}',
    )
)
@click.argument("message_id")
@click.option("--raw", is_flag=True, help="Write the first letter's body to stdout, byte for byte.")
@_scan
@options.connections("amqp_url")
@options.queue
@options.output
@click.pass_context
def show(ctx: click.Context, parts: Parts, queue: str, message_id: str, raw: bool, scan: int, as_json: bool) -> None:
    """Show every letter of one message: headers and payload.

    Exit code 1 when there is none.
    """
    wanted = Filter(ids=(message_id.lower(),))
    with DeadLetterQueue(parts.broker(), dead_letter_queue(queue)) as letters:
        found = [one for one in islice(letters.letters(), scan) if wanted.matches(one, datetime.now(UTC))]
        letters.give_back()
    if as_json:
        document = [
            {**one.summary(), "headers": dlq_output.plain_headers(one.headers), "payload": one.payload()}
            for one in found
        ]
        write_json({"letters": document})
    elif raw and found:
        sys.stdout.buffer.write(found[0].body)
    else:
        for one in found:
            dlq_output.write_letter(one)
    if not found:
        click.echo(f"outhaul: {dead_letter_queue(queue)} holds no letter of message {message_id}", err=True)
        ctx.exit(FINDING)


@dlq.command(
    epilog=teach(
        "outhaul dlq redrive --died-of exhausted --dry-run",
        "outhaul dlq redrive --died-of exhausted --rate 20 --yes",
        "outhaul dlq redrive --id 0193a1b2-7c4d-7e10-9f00-0123456789ab --yes --run-id ticket-4711",
        json=_MOVED,
    )
)
@_filters
@click.option(
    "--limit", default=1000, show_default=True, metavar="N", type=click.IntRange(1), help="The most letters moved."
)
@_scan
@click.option(
    "--rate",
    default=100.0,
    show_default=True,
    metavar="N",
    type=click.FloatRange(0.01, 10_000),
    help="The most messages a second.",
)
@click.option(
    "--to",
    type=click.Choice(["queue", "origin"]),
    default="queue",
    show_default=True,
    help="queue: to the queue it died in, and to no other. origin: to its first exchange and routing key, and so to "
    "every queue that is bound there.",
)
@click.option("--force", is_flag=True, help="Also letters so old that the inbox may have forgotten their effect.")
@options.run_id
@options.confirmed
@options.connections("amqp_url", "inbox_dsn")
@options.queue
@options.consumer
@options.output
@click.pass_context
def redrive(
    ctx: click.Context,
    /,
    parts: Parts,
    queue: str,
    consumer: str | None,
    chosen: Filter,
    to: str,
    run_id: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **bounds: Any,
) -> None:
    """Send the messages of dead letters once more.

    They keep their ids, and start anew: attempts, crash records and the broker's marks are cleared. What had
    its effect already is absorbed by the inbox. Letters older than the inbox remembers are left, unless
    --force. On record in the table runs of the consumer's database.

    Exit code 1 when a message was not taken, was too old, or died again at once.
    """
    order = Order(
        queue=queue,
        filter=chosen,
        limit=bounds["limit"],
        scan=bounds["scan"],
        consumer=consumer or "",
        rate_per_second=bounds["rate"],
        to_origin=to == "origin",
        force=bounds["force"],
        dry_run=dry_run,
    )
    if not dry_run:
        options.ask(
            f"Redrive up to {order.limit} letters of {dead_letter_queue(queue)}{dlq_output.told(chosen)}?", yes=yes
        )
    inbox = parts.database("inbox")
    with DeadLetterQueue(parts.broker(), dead_letter_queue(queue)) as letters:
        moved = redrive_letters(letters, inbox, order, run_id=run_id, progress=dlq_output.progress("redriven"))
    dlq_output.write_moved(moved, "redriven", as_json=as_json)
    if moved.problem or moved.counts["too_old"] or moved.counts["came_back"]:
        ctx.exit(FINDING)


@dlq.command(
    epilog=teach(
        "outhaul dlq discard --died-of malformed --reason 'sent by the load test' --dry-run",
        "outhaul dlq discard --id 0193a1b2-7c4d-7e10-9f00-0123456789ab --reason 'customer withdrew' --yes",
        json=_MOVED,
    )
)
@_filters
@click.option("--reason", required=True, help="Why these messages are worthless; it goes on record.")
@click.option(
    "--limit", default=1000, show_default=True, metavar="N", type=click.IntRange(1), help="The most letters discarded."
)
@_scan
@options.run_id
@options.confirmed
@options.connections("amqp_url", "inbox_dsn")
@options.queue
@options.consumer
@options.output
def discard(
    parts: Parts,
    queue: str,
    consumer: str | None,
    chosen: Filter,
    reason: str,
    limit: int,
    scan: int,
    run_id: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Throw dead letters away, with a reason, on record.

    Each letter's id, reason and the hash of its payload are written to the table runs of the consumer's
    database before it leaves the queue. The payload itself is gone: `dlq show --raw` keeps it.
    """
    order = Order(
        queue=queue,
        filter=chosen,
        limit=limit,
        scan=scan,
        consumer=consumer or "",
        reason=reason,
        dry_run=dry_run,
    )
    if not dry_run:
        options.ask(
            f"Discard up to {limit} letters of {dead_letter_queue(queue)}{dlq_output.told(chosen)} for good?", yes=yes
        )
    inbox = parts.database("inbox")
    with DeadLetterQueue(parts.broker(), dead_letter_queue(queue)) as letters:
        moved = discard_letters(letters, inbox, order, run_id=run_id, progress=dlq_output.progress("discarded"))
    dlq_output.write_moved(moved, "discarded", as_json=as_json)

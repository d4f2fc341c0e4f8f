"""`outhaul trace`: one message's story."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import click

from outhaul.broker_admin.depths import look
from outhaul.broker_admin.management import Management
from outhaul.cli import options
from outhaul.cli.exit_codes import FINDING
from outhaul.cli.output import age, clean, instant, write_json
from outhaul.cli.parts import MissingSetting, Parts
from outhaul.cli.teach import teach
from outhaul.cli.which import queue_name_or_none
from outhaul.errors import TopologyError, Unreachable
from outhaul.settings import BrokerSettings
from outhaul.tools.dlq import DeadLetterQueue
from outhaul.tools.letters import DeadLetter
from outhaul.tools.trace import NEEDS_SOMEBODY, Looked, State, Story, gather, tell
from outhaul.topology import dead_letter_queue

_COLOURS = {State.DONE: "green", State.PARKED: "red", State.DEAD: "red", State.LOST: "red", State.UNKNOWN: "red"}


@click.command(
    epilog=teach(
        "outhaul trace 0193a1b2-7c4d-7e10-9f00-0123456789ab",
        "outhaul trace order-4711",
        "outhaul trace order-4711 --output json | jq -r '.stories[].state'",
        json='{"identifier", "looked": {"outbox": bool, "inbox": bool, "waiting": int or null, "all_letters": bool},\n'
        '  "stories": [{"message_id", "type", "aggregate_id", "remedy",\n'
        '    "state": "waiting|sending|parked|sent|failing|dead|lost|done|unknown",\n'
        '    "steps": [{"at": instant or null, "place": "outbox|broker|queue|consumer|dlq|inbox", "text"}]}]}',
    )
)
@click.argument("identifier", metavar="MESSAGE-ID|AGGREGATE-ID")
@click.option(
    "--scan",
    default=10_000,
    show_default=True,
    metavar="N",
    type=click.IntRange(0),
    help="The most dead letters looked at.",
)
@click.option(
    "--peek",
    default=0,
    metavar="N",
    type=click.IntRange(0),
    help="Also read the first N messages of the consumer's queue and give them back; the consumer then sees them as "
    "redelivered, and handles each alone.",
)
@options.connections("outbox_dsn", "inbox_dsn", "amqp_url", "management_url")
@options.queue_options
@options.output
@click.pass_context
def trace(
    ctx: click.Context,
    /,
    parts: Parts,
    identifier: str,
    queue: str | None,
    topology: str | None,
    scan: int,
    peek: int,
    as_json: bool,
) -> None:
    """The story of one message, or of everything about one business object.

    From its row in the outbox over the broker's confirm and failed deliveries to its effect, or to where it
    stopped and why. Dead letters are looked through when a broker is given; the queue itself is only counted,
    unless --peek reads it.

    Exit code 1 when a message is parked, dead, lost or nowhere to be found.
    """
    outbox, inbox = parts.database_or_none("outbox"), parts.database_or_none("inbox")
    name, broker, management = (
        queue_name_or_none(parts, queue, topology),
        parts.broker_or_none(),
        parts.management_or_none(),
    )
    if outbox is None and inbox is None and (broker is None or name is None):
        raise MissingSetting(
            "where to look",
            "--outbox-dsn, --inbox-dsn, or --amqp-url and --queue",
            ("OUTHAUL_OUTBOX_DATABASE_URL", "OUTHAUL_INBOX_DATABASE_URL", "OUTHAUL_AMQP_URL"),
        )
    waiting: int | None = None
    letters: list[DeadLetter] = []
    queued: list[DeadLetter] = []
    all_letters = False
    try:
        if broker and management and name:
            waiting = look(Management(management, virtual_host=broker.virtual_host), name).waiting
        if broker and name and scan:
            letters = _read(broker, dead_letter_queue(name), scan)
            all_letters = len(letters) < scan
        if broker and name and peek:
            queued = _read(broker, name, peek)
    except (Unreachable, TopologyError) as error:
        # The databases' part of the story is the longer one.
        click.echo(f"outhaul: the queues could not be looked at: {error}", err=True)
    facts, looked = gather(
        identifier,
        outbox=outbox,
        inbox=inbox,
        letters=letters,
        queued=queued,
        waiting=waiting,
        all_letters=all_letters,
    )
    stories = [tell(fact, looked) for fact in facts]
    if as_json:
        _write_json(identifier, looked, stories)
    else:
        for story in stories:
            _write(story)
    if not stories:
        click.echo(f"outhaul: nothing is known of {identifier!r}{_elsewhere(looked)}", err=True)
    if not stories or any(story.state in NEEDS_SOMEBODY for story in stories):
        ctx.exit(FINDING)


def _read(broker: BrokerSettings, queue: str, most: int) -> list[DeadLetter]:
    """The first messages of a queue, which are given back."""
    with DeadLetterQueue(broker, queue) as box:
        # Without their bodies: ten thousand of them may be large.
        messages = [replace(message, body=b"") for message in islice(box.letters(), most)]
        box.give_back()
    return messages


def _elsewhere(looked: Looked) -> str:
    missing = [
        option for option, given in (("--outbox-dsn", looked.outbox), ("--inbox-dsn", looked.inbox)) if not given
    ]
    return f"; not looked at: {', '.join(missing)}" if missing else ": neither as a message id nor as an aggregate's"


def _write(story: Story) -> None:
    state = click.style(story.state.value, fg=_COLOURS.get(story.state, "yellow"), bold=True)
    about = " · ".join(part for part in (story.type, story.aggregate_id) if part)
    click.echo(f"message {story.message_id or '(without a usable id)'}  {clean(about)}  {state}")
    before = None
    for step in story.steps:
        since = f"+{age((step.at - before).total_seconds())}" if step.at and before else ""
        click.echo(f"  {instant(step.at) if step.at else 'now':<24}  {since:>7}  {step.place:<8}  {clean(step.text)}")
        before = step.at or before
    if story.remedy:
        click.echo(f"  → {story.remedy}")
    click.echo()


def _write_json(identifier: str, looked: Looked, stories: list[Story]) -> None:
    seen = ("outbox", "inbox", "waiting", "all_letters")
    write_json(
        {
            "identifier": identifier,
            "looked": {name: getattr(looked, name) for name in seen},
            "stories": [
                {
                    "message_id": story.message_id,
                    "type": story.type,
                    "aggregate_id": story.aggregate_id,
                    "state": story.state,
                    "remedy": story.remedy,
                    "steps": [step._asdict() for step in story.steps],
                }
                for story in stories
            ],
        }
    )

"""`outhaul discard`: give up rows of the outbox."""

from __future__ import annotations

import asyncio
from uuid import UUID

import click

from outhaul.cli import options
from outhaul.cli.exit_codes import FINDING
from outhaul.cli.output import write_json, write_table
from outhaul.cli.parts import Parts
from outhaul.cli.teach import teach
from outhaul.database import runs
from outhaul.database.outbox_store import Discarded, OutboxStore
from outhaul.settings import DatabaseSettings

_LOOK_UP = """
SELECT message_id, type, aggregate_id, status, last_error FROM outbox WHERE message_id = ANY(%s) ORDER BY message_id"""


@click.command(
    epilog=teach(
        "outhaul discard 0193a1b2-7c4d-7e10-9f00-0123456789ab --reason 'customer withdrew' --dry-run",
        "outhaul discard 0193a1b2-7c4d-7e10-9f00-0123456789ab --reason 'customer withdrew' --yes",
        json='{"dry_run": bool, "run_id", "done_before": bool, "left": [id],\n'
        '  "discarded": [{"message_id", "type", "aggregate_id", "status", "last_error"}]}',
    )
)
@click.argument("message_ids", metavar="MESSAGE-ID...", nargs=-1, required=True, type=click.UUID)
@click.option("--reason", required=True, help="Why the messages are worthless; it goes on record.")
@options.run_id
@options.confirmed
@options.connections("outbox_dsn")
@options.output
@click.pass_context
def discard(
    ctx: click.Context,
    /,
    parts: Parts,
    message_ids: tuple[UUID, ...],
    reason: str,
    run_id: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Give up rows of the outbox that must never be sent, such as parked ones nobody can mend.

    They are deleted, with the reason on record in the table runs. A row that a live sender holds is left: it
    may be on its way at this moment. What is sent already cannot be discarded here; see `outhaul dlq discard`.

    Exit code 1 when one of them was left or not found.
    """
    if not reason.strip():
        raise click.UsageError("--reason is empty: say why the messages are worthless; it goes on record.")
    conn = parts.database("outbox")
    found = [Discarded(*row) for row in conn.execute(_LOOK_UP, (list(message_ids),))]
    name = run_id or runs.new_run_id("discard")
    done_before = run_id is not None and runs.get(conn, run_id) is not None
    if dry_run or done_before:
        gone = found if dry_run else []
    else:
        if not as_json:
            _write(found)
        options.ask(f"Discard {len(found)} rows of the outbox for good?", yes=yes)
        gone = asyncio.run(_discard(parts.database_settings("outbox"), message_ids, reason, name))
    left = [] if done_before else sorted(set(message_ids) - {row.message_id for row in gone})
    if as_json:
        discarded = [row._asdict() for row in gone]
        document = {
            "dry_run": dry_run,
            "run_id": name,
            "done_before": done_before,
            "left": left,
            "discarded": discarded,
        }
        write_json(document)
    elif done_before:
        click.echo(f"Run {name} was done before; nothing was done now.")
    else:
        if dry_run:
            _write(gone)
        click.echo(f"{len(gone)} {'would be ' if dry_run else ''}discarded.")
        for message_id in left:
            click.echo(f"left: {message_id} (held by a live sender, or not in the outbox; see: outhaul trace)")
        if not dry_run:
            click.echo(f"On record as run {name}.")
    if left:
        ctx.exit(FINDING)


async def _discard(
    database: DatabaseSettings, message_ids: tuple[UUID, ...], reason: str, run_id: str
) -> list[Discarded]:
    async with OutboxStore(database, prepared_statements=False) as store:
        return await store.discard(message_ids, reason=reason, actor=runs.actor_name(), run_id=run_id)


def _write(rows: list[Discarded]) -> None:
    if rows:
        write_table(("message id", "type", "aggregate", "status", "last error"), rows)

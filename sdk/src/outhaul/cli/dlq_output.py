"""How `outhaul dlq` shows letters, and what became of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from outhaul.cli.output import clean, instant, shorten, write_json, write_table
from outhaul.tools.letters import DeadLetter, Filter
from outhaul.tools.redrive import Moved


def told(chosen: Filter) -> str:
    """The filter in words, for a question."""
    parts = ", ".join(f"{name} {value}" for name, value in chosen.request().items())
    return f" with {parts}" if parts else ""


def progress(verb: str) -> Callable[[Mapping[str, int]], None]:
    """How far a run is, on one line of the terminal; nothing where there is none."""
    if not sys.stderr.isatty():
        return lambda _counts: None
    return lambda counts: click.echo(f"\r{counts['moved']} {verb}, {counts['seen']} seen ", err=True, nl=False)


def write_moved(moved: Moved, verb: str, *, as_json: bool) -> None:
    """What a redrive or a discard did, or would do."""
    if sys.stderr.isatty():
        click.echo("\r", err=True, nl=False)
    shown = [letter.summary() for letter in moved.examples]
    if as_json:
        parts = ("run_id", "dry_run", "done_before", "problem", "counts")
        write_json({**{name: getattr(moved, name) for name in parts}, "letters": shown})
        return
    if moved.dry_run and shown:
        write_letters(shown)
        click.echo()
    counts = moved.counts
    if moved.done_before:
        click.echo(f"Run {moved.run_id} was done before: {counts['moved']} {verb} then; nothing was done now.")
        return
    click.echo(f"{counts['moved']} {'would be ' if moved.dry_run else ''}{verb} of {counts['seen']} letters seen.")
    if counts["too_old"]:
        click.echo(f"{counts['too_old']} left: older than the inbox remembers; --force sends them all the same.")
    if counts["came_back"]:
        click.echo(f"{counts['came_back']} came back as dead letters at once: `outhaul dlq list` tells why.")
    if moved.problem:
        click.echo(f"Stopped: {moved.problem}. The letter stays; mend that and run this again.", err=True)
    if not moved.dry_run:
        click.echo(f"On record as run {moved.run_id}.")


def write_letters(shown: Sequence[Mapping[str, Any]]) -> None:
    """Letters, one a line."""
    write_table(
        ("last failed", "reason", "failed", "type", "aggregate", "message id", "error"),
        [
            (
                letter["last_failed_at"],
                letter["reason"],
                letter["failed"],
                letter["type"],
                letter["subject"],
                letter["message_id"],
                shorten(letter["error"], 60),
            )
            for letter in shown
        ],
    )


def write_letter(letter: DeadLetter) -> None:
    """One letter in full."""
    for name, value in letter.summary().items():
        click.echo(f"{name + ':':<17} {instant(value) if isinstance(value, datetime) else clean(str(value))}")
    click.echo("headers:")
    write_json(plain_headers(letter.headers))
    click.echo("payload:")
    write_json(letter.payload())


def plain_headers(headers: Mapping[str, Any]) -> Any:
    """Headers as JSON: AMQP tables hold instants and bytes too."""
    return {name: _plain_value(value) for name, value in headers.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain_value(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain_value(inner) for inner in value]
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC)
    return value if isinstance(value, str | int | float | bool | bytes | None) else str(value)

"""Options that several commands share, and the parts they amount to."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from outhaul.cli.parts import NotSaid, Parts
from outhaul.cli.which import queue_name
from outhaul.configuration.durations import parse_duration
from outhaul.errors import ConfigurationError

Command = Callable[..., Any]

_CONNECTIONS = {
    "dsn": "Database, for this command's one or for both sides.",
    "outbox_dsn": "Producer's database.  [env: OUTHAUL_OUTBOX_DATABASE_URL, OUTHAUL_ORDER_DATABASE_URL]",
    "inbox_dsn": "Consumer's database.  [env: OUTHAUL_INBOX_DATABASE_URL, OUTHAUL_WAYBILL_DATABASE_URL]",
    "amqp_url": "RabbitMQ, amqp[s]://user:password@host/vhost.  [env: OUTHAUL_AMQP_URL]",
    "management_url": "Its management API, http[s]://user:password@host:15672.  [env: OUTHAUL_MANAGEMENT_URL]",
}


def connections(*names: str) -> Callable[[Command], Command]:
    """Add connection options by name; the command gets them as ``parts``, closed when it ends."""

    def decorate(command: Command) -> Command:
        @click.pass_context
        @wraps(command)
        def run(ctx: click.Context, /, *args: Any, **kwargs: Any) -> Any:
            given = {name: value for name in names if (value := kwargs.pop(name))}
            parts = Parts(os.environ, given)
            ctx.call_on_close(parts.close)
            return command(parts, *args, **kwargs)

        decorated: Command = run
        for name in reversed(names):
            flag = "--" + name.replace("_", "-")
            decorated = click.option(flag, name, metavar="URL", help=_CONNECTIONS[name])(decorated)
        return decorated

    return decorate


def queue(command: Command) -> Command:
    """Add ``--queue`` and ``--topology``; the command gets ``queue``. Must stand below ``connections``."""

    @wraps(command)
    def run(parts: Parts, *args: Any, queue: str | None, topology: str | None, **kwargs: Any) -> Any:
        return command(parts, *args, queue=queue_name(parts, queue, topology), **kwargs)

    return queue_options(run)


def queue_options(command: Command) -> Command:
    """Add the two options alone, for a command that can do without a queue."""
    decorated = click.option(
        "--topology",
        metavar="NAME|FILE",
        help="Declared topology, to take the queue from: an installed one's name, or a file.  [env: OUTHAUL_TOPOLOGY]",
    )(command)
    return click.option(
        "--queue", metavar="NAME", help="The consumer's queue.  [env: OUTHAUL_QUEUE; default: the topology's]"
    )(decorated)


def consumer(command: Command) -> Command:
    """Add ``--consumer``; the command gets ``consumer``, None where neither option nor environment names one."""
    return click.option(
        "--consumer",
        metavar="NAME",
        envvar="OUTHAUL_CONSUMER",
        help="The consumer's name in the inbox.  [env: OUTHAUL_CONSUMER]",
    )(command)


def output(command: Command) -> Command:
    """Add ``--output human|json``; the command gets ``as_json``."""
    return click.option(
        "--output",
        "as_json",
        type=click.Choice(["human", "json"]),
        default="human",
        show_default=True,
        callback=lambda _ctx, _param, value: value == "json",
        help="A table for people, or one JSON document.",
    )(command)


def duration(flag: str, default: str | None, text: str) -> Callable[[Command], Command]:
    """Add an option holding a duration (``30s``, ``7d``); the command gets ``<name>_seconds``, None without one."""
    name = flag.removeprefix("--").replace("-", "_") + "_seconds"

    def convert(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
        if value is None:
            return None
        try:
            return parse_duration(value, setting=flag)
        except ConfigurationError as error:
            raise click.BadParameter(f"{value!r}: {error.remedy}") from error

    return click.option(flag, name, default=default, show_default=True, metavar="DURATION", callback=convert, help=text)


def confirmed(command: Command) -> Command:
    """Add ``--yes`` and ``--dry-run`` of a command that changes something."""
    decorated = click.option("--yes", is_flag=True, help="Do not ask; needed where nobody can answer.")(command)
    return click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing.")(decorated)


def run_id(command: Command) -> Command:
    """Add ``--run-id``."""
    return click.option(
        "--run-id",
        metavar="TEXT",
        help="Id of this decision in the audit record. The same id again does the work only once.",
    )(command)


def ask(question: str, *, yes: bool) -> None:
    """Go on only when a person, or ``--yes``, says so. Raises NotSaid where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise NotSaid(f"{question} Nobody can be asked here: say --yes, or look first by --dry-run.")
    click.confirm(question, abort=True, err=True)

"""The root of the command: its table of subcommands, and the one place where an error becomes an exit code."""

from __future__ import annotations

import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import click

from outhaul import errors
from outhaul.cli.exit_codes import DEFECT, FINDING, FINE, INTERRUPTED, UNREACHABLE, USAGE

_EPILOG = """\b
Start here:
  outhaul doctor             is everything as it should be?
  outhaul status             how much waits, and where?
  outhaul trace ORDER-ID     what happened to this one?

\b
Exit codes, the same for every command:
  0  fine
  1  a finding: something a person should look at
  2  usage: an option or a setting is wrong; the message names it
  3  a database or the broker cannot be reached
  4  a defect of outhaul itself (--debug shows where)

\b
Connections come from options or from the environment:
  --outbox-dsn      OUTHAUL_OUTBOX_DATABASE_URL, else OUTHAUL_ORDER_DATABASE_URL
  --inbox-dsn       OUTHAUL_INBOX_DATABASE_URL, else OUTHAUL_WAYBILL_DATABASE_URL
  --amqp-url        OUTHAUL_AMQP_URL
  --management-url  OUTHAUL_MANAGEMENT_URL
In a folder where `make up` has run, `source .outhaul/env` sets them all.
"""


@dataclass(frozen=True, slots=True)
class Lazy:
    """A subcommand that is imported when called: ``target`` is ``module:attribute``."""

    target: str
    short_help: str

    def load(self) -> click.Command:
        """The command itself."""
        module, _, attribute = self.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


class LazyGroup(click.Group):
    """A group that lists its commands from a table, so that help imports none of them."""

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names in the table's order, which is the order a person needs them in."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import the one command that was named."""
        found = self.lazy.get(cmd_name)
        return found.load() if found else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """The table as help, without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.short_help) for name, lazy in self.lazy.items()])


class Root(LazyGroup):
    """The outermost group: errors end here as one paragraph on stderr and an exit code, never as a traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse what neither PostgreSQL nor AMQP can carry, and what would come back as a defect."""
        for argument in args:
            try:
                argument.encode()
            except UnicodeEncodeError as error:
                shown = argument.encode("utf-8", "backslashreplace").decode()
                raise click.UsageError(f"argument {shown!r} is not valid UTF-8") from error
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand and turn what it raises into an exit code."""
        try:
            try:
                result = super().invoke(ctx)
            finally:
                sys.stdout.flush()  # a reader that is gone is noticed here, and not at exit
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("outhaul: interrupted; a run on record goes on under the same --run-id", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            # The reader (head, less) has had enough. What is still buffered would fail once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(FINE)
        except errors.OuthaulError as error:
            click.echo(f"outhaul: {error}", err=True)
            ctx.exit(exit_code(error))
        except Exception as error:  # the last line of defence: a person gets no traceback unasked
            if ctx.params.get("debug"):
                raise
            text, code = _explain(error)
            click.echo(f"outhaul: {text}", err=True)
            ctx.exit(code)
        return result


def exit_code(error: errors.OuthaulError) -> int:
    """Which exit code stands for the error.

    >>> exit_code(errors.DatabaseUnreachable("127.0.0.1:1/x", "connection refused"))
    3
    """
    if isinstance(error, errors.Unreachable):
        return UNREACHABLE
    if isinstance(error, errors.ConfigurationError):
        return USAGE
    return FINDING


def _explain(error: Exception) -> tuple[str, int]:
    # psycopg is not imported unless a command has done so: `outhaul --help` is to be quick.
    psycopg = sys.modules.get("psycopg")
    if psycopg is not None and isinstance(error, psycopg.Error):
        from outhaul.cli.driver_errors import explain  # noqa: PLC0415 - imports psycopg

        return explain(error)
    if isinstance(error, ImportError) and "pq wrapper" in str(error):
        return "psycopg finds no libpq: pip install 'outhaul[cli,binary]', or install libpq", USAGE
    text = f"unexpected {type(error).__name__}: {error}. This is a defect; `outhaul --debug ...` shows where."
    return text, DEFECT


COMMANDS: Final[Mapping[str, Lazy]] = {
    "status": Lazy("outhaul.cli.status:status", "What waits, what is stuck, who sends and who consumes."),
    "trace": Lazy("outhaul.cli.trace:trace", "The story of one message or one business object."),
    "audit": Lazy("outhaul.cli.audit:audit", "Compare both databases: what was lost on the way?"),
    "resend": Lazy("outhaul.cli.resend:resend", "Publish rows of the outbox when no sender does."),
    "discard": Lazy("outhaul.cli.discard:discard", "Give up rows of the outbox, with a reason, on record."),
    "dlq": Lazy("outhaul.cli.dlq:dlq", "List, show, redrive and discard dead letters."),
    "topology": Lazy("outhaul.cli.topology:topology", "Exchanges, queues and policies: apply, diff, check."),
    "schema": Lazy("outhaul.cli.schema:schema", "Tables of the outbox and the inbox: apply, status."),
    "doctor": Lazy("outhaul.cli.doctor:doctor", "Look at everything; say what is wrong and what helps."),
}


@click.group(
    cls=Root,
    lazy=COMMANDS,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="outhaul", message="outhaul %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of a defect.")
def root(debug: bool) -> None:
    """Look after messages between an outbox and an inbox.

    Every committed row of the outbox is published until the broker confirms it, and takes effect at its
    consumer exactly once or ends as a dead letter with a reason. These commands show where each message is,
    and move what got stuck. They work with any producer and consumer built on Outhaul.
    """
    # What matters is said by the command itself; without a handler, Python would print pika's warnings too.
    handler: logging.Handler = logging.StreamHandler() if debug else logging.NullHandler()
    logging.basicConfig(handlers=[handler], level=logging.INFO)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and leave the process with its exit code."""
    # A Job that is stopped closes its record, as one that is interrupted does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    root(args=arguments, prog_name="outhaul")
    raise SystemExit(FINE)

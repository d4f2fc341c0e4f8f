"""docs/reference/cli.md, made from the commands: ``python -m outhaul.cli.reference > docs/reference/cli.md``.

A test compares the page with the commands, so neither can change alone.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

import click

from outhaul.cli.group import root
from outhaul.cli.teach import VERBATIM

_HEAD = """\
# The command `outhaul`

<!-- Made by `python -m outhaul.cli.reference`; a test compares it with the commands. -->

`pip install 'outhaul[cli,binary]'` brings it. It works with any producer and consumer built on Outhaul.

**Connections** come from options, else from the environment; an option always wins. For the producer's database:
`--outbox-dsn`, then `OUTHAUL_OUTBOX_DATABASE_URL`, then `OUTHAUL_ORDER_DATABASE_URL` (local mode's name for it). For
the consumer's: `--inbox-dsn`, then `OUTHAUL_INBOX_DATABASE_URL`, then `OUTHAUL_WAYBILL_DATABASE_URL`. The broker is
`--amqp-url` or `OUTHAUL_AMQP_URL`, its management API `--management-url` or `OUTHAUL_MANAGEMENT_URL`. Password and
certificate files stand beside them, see [settings](settings.md). In a folder where `make up` has run,
`source .outhaul/env` sets them all.

**The queue** is `--queue`, then `OUTHAUL_QUEUE`, then the only consumer's queue of the declared topology
(`--topology`, `OUTHAUL_TOPOLOGY`, else what is installed). **The consumer** is `--consumer`, then
`OUTHAUL_CONSUMER`, then the only one of the inbox.

**Exit codes**

| code | meaning |
|---|---|
| 0 | fine |
| 1 | a finding: something a person should look at |
| 2 | usage: an option or a setting is wrong; the message names it |
| 3 | a database or the broker cannot be reached, or refuses the credentials |
| 4 | a defect of outhaul itself; `outhaul --debug ...` shows where |
| 130 | interrupted by Ctrl-C or SIGTERM; what was done is on record |

**Output** is for people; `--output json` gives one document on stdout, whose fields are only ever added to. Instants
are RFC 3339 in UTC, ids are text, durations are seconds. Errors are one paragraph on stderr, in both forms.

**What moves or deletes something** has `--dry-run`, asks first (`--yes` answers; without a terminal it is needed),
and is on record in the table `runs` of the database it works on. `--run-id` names the decision: the same id again
does the work only once, and goes on where an earlier run was cut short.
"""


def reference_page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_commands(root, "outhaul")]).rstrip() + "\n"


def _commands(group: click.Group, path: str) -> Iterator[str]:
    context = click.Context(group, info_name=path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        full = f"{path} {name}"
        yield f"## `{full}`\n"
        yield f"{_prose(command)}\n"
        if isinstance(command, click.Group):
            yield from _commands(command, full)
        else:
            yield from _usage(command, full)


def _prose(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "")


def _usage(command: click.Command, path: str) -> Iterator[str]:
    arguments = "".join(f" {p.human_readable_name}" for p in command.params if isinstance(p, click.Argument))
    yield f"```\n{path} [OPTIONS]{arguments}\n```\n"
    yield "| option | meaning |\n|---|---|"
    context = click.Context(command, info_name=path)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            record = parameter.get_help_record(context)
            assert record is not None
            option, meaning = (" ".join(text.split()).replace("|", "\\|") for text in record)
            yield f"| `{option}` | {meaning} |"
    yield ""
    for part in (command.epilog or "").split("\n\n"):
        title, _, body = part.removeprefix(VERBATIM).partition("\n")
        lines = "\n".join(line.removeprefix("  ") for line in body.splitlines())
        yield f"{title}\n\n```{'sh' if title.startswith('Examples') else ''}\n{lines}\n```\n"


if __name__ == "__main__":
    sys.stdout.write(reference_page())

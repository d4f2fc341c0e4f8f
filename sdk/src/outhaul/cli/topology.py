"""`outhaul topology`: what must exist on the broker."""

from __future__ import annotations

from collections.abc import Sequence

import click

from outhaul.broker_admin import topology_apply
from outhaul.broker_admin.topology_diff import Difference
from outhaul.cli import options
from outhaul.cli.exit_codes import FINDING
from outhaul.cli.output import clean, write_json
from outhaul.cli.parts import Parts
from outhaul.cli.teach import teach
from outhaul.cli.which import declared

_DIFFERENCE = '{"kind", "name", "text", "remedy", "repairable": bool, "harmless": bool}'
_source = click.option(
    "--topology",
    "source",
    metavar="NAME|FILE",
    help="An installed topology's name, module:ATTRIBUTE, or a .toml or .json file.  "
    "[env: OUTHAUL_TOPOLOGY; default: all installed]",
)


@click.group()
def topology() -> None:
    """Exchanges, quorum queues, bindings and policies, declared once and held to it.

    Everything but a queue's type is set by policy, so that it can change without declaring the queue anew.
    Nothing is ever deleted.
    """


@topology.command(
    epilog=teach(
        "outhaul topology apply",
        "outhaul topology apply --topology shop.toml --nodes 3",
        "outhaul topology apply --dry-run",
        json=f'{{"dry_run": bool, "changed": [difference], "remaining": [difference]}}\ndifference: {_DIFFERENCE}',
    )
)
@_source
@click.option(
    "--nodes",
    default=1,
    show_default=True,
    metavar="N",
    type=click.IntRange(1, 99),
    help="Wait for so many cluster nodes: a quorum queue gets its members when it is declared.",
)
@options.duration("--timeout", "1m", "How long to wait for the nodes.")
@click.option("--dry-run", is_flag=True, help="Show what would be changed; change nothing.")
@options.connections("amqp_url", "management_url")
@options.output
@click.pass_context
def apply(
    ctx: click.Context,
    /,
    parts: Parts,
    source: str | None,
    nodes: int,
    timeout_seconds: float,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make the broker what is declared; harmless when run again.

    The user needs the tag policymaker, and the right to configure these names. What exists and contradicts
    the declaration is left alone and told.

    Exit code 1 when something is still not as declared.
    """
    wanted, broker, management = declared(parts, source), parts.broker(), parts.management()
    if dry_run:
        found = topology_apply.diff(wanted, broker, management)
        changed = [difference for difference in found if difference.repairable]
        remaining = [difference for difference in found if not difference.repairable]
    else:
        applied = topology_apply.apply(wanted, broker, management, nodes=nodes, timeout_seconds=timeout_seconds)
        changed, remaining = list(applied.changes), list(applied.remaining)
    if as_json:
        write_json({"dry_run": dry_run, "changed": _plain(changed), "remaining": _plain(remaining)})
    else:
        for difference in changed:
            click.echo(f"{'would put' if dry_run else 'put'} right: {difference.text}")
        _write(remaining)
        if not changed:
            click.echo(f"{broker.address}: nothing to change")
    if any(not difference.harmless for difference in remaining):
        ctx.exit(FINDING)


@topology.command(
    epilog=teach(
        "outhaul topology diff",
        "outhaul topology diff --topology shop.toml --output json",
        json=f'{{"differences": [difference]}}\ndifference: {_DIFFERENCE}',
    )
)
@_source
@options.connections("amqp_url", "management_url")
@options.output
@click.pass_context
def diff(ctx: click.Context, /, parts: Parts, source: str | None, as_json: bool) -> None:
    """Tell every way in which the broker is not what is declared; change nothing.

    Policies that shadow ours, operator policies and queues with too few members are found as well.

    Exit code 1 when there is a difference that matters.
    """
    found = topology_apply.diff(declared(parts, source), parts.broker(), parts.management())
    _show(ctx, found, as_json=as_json)


@topology.command(
    epilog=teach(
        "outhaul topology check --amqp-url amqp://waybill:password@broker/shop",
        json=f'{{"differences": [difference]}}\ndifference: {_DIFFERENCE}',
    )
)
@_source
@options.connections("amqp_url")
@options.output
@click.pass_context
def check(ctx: click.Context, /, parts: Parts, source: str | None, as_json: bool) -> None:
    """Tell which exchanges and queues are missing, by AMQP alone: needs no management API and no special rights.

    Exit code 1 when one is missing. Bindings and policies cannot be seen this way: use diff.
    """
    found = topology_apply.check_passive(declared(parts, source), parts.broker())
    _show(ctx, found, as_json=as_json)


def _show(ctx: click.Context, found: Sequence[Difference], *, as_json: bool) -> None:
    if as_json:
        write_json({"differences": _plain(found)})
    else:
        _write(found)
        if not found:
            click.echo("As declared.")
    if any(not difference.harmless for difference in found):
        ctx.exit(FINDING)


def _write(found: Sequence[Difference]) -> None:
    for difference in found:
        click.echo(f"{difference.kind}: {clean(difference.text)}")
        click.echo(f"  → {difference.remedy}")


def _plain(found: Sequence[Difference]) -> list[dict[str, object]]:
    parts = ("kind", "name", "text", "remedy", "repairable", "harmless")
    return [{name: getattr(difference, name) for name in parts} for difference in found]

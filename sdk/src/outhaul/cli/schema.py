"""`outhaul schema`: the tables."""

from __future__ import annotations

from typing import Any

import click

from outhaul.cli import options
from outhaul.cli.exit_codes import FINDING
from outhaul.cli.output import write_json, write_table
from outhaul.cli.parts import Parts
from outhaul.cli.teach import teach
from outhaul.database import schema_apply, schema_grant

_component = click.option(
    "--component",
    "components",
    multiple=True,
    required=True,
    metavar="NAME",
    help="outbox, inbox, or a function's own (such as order). May be given several times.",
)


@click.group()
def schema() -> None:
    """Create and bring forward the tables of the outbox and the inbox.

    Versions go forward only, and each is safe while the previous release still runs: apply first, then roll
    out the new code.
    """


@schema.command(
    epilog=teach(
        "outhaul schema apply --component outbox --dsn postgresql://owner@db/shop",
        "outhaul schema apply --component outbox --component inbox --dry-run",
        json='{"dry_run": bool, "components": [{"component", "database", "applied": int,\n'
        '  "steps": [{"component", "version", "name"}]}]}',
    )
)
@_component
@click.option("--dry-run", is_flag=True, help="Show the SQL that would be run; change nothing.")
@options.connections("dsn", "outbox_dsn", "inbox_dsn")
@options.output
def apply(parts: Parts, components: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Bring a component's tables up to date; harmless when run again, or twice at once.

    The database is --dsn, else --outbox-dsn or --inbox-dsn by component, else OUTHAUL_<COMPONENT>_DATABASE_URL.
    The role must own the tables; the functions' own roles need not.
    """
    results: list[dict[str, Any]] = []
    for component in components:
        schema_apply.steps(component)  # refuses a name that is not installed before anything is opened
        conn = parts.database(component)
        before = schema_apply.plan(conn, component)
        planned = [step for plan in schema_apply.plans(conn, component) for step in plan.missing]
        steps = planned if dry_run else schema_apply.apply(conn, component)
        results.append(
            {
                "component": component,
                "database": parts.database_settings(component).address,
                "applied": before.applied,
                "steps": [{"component": step.component, "version": step.version, "name": step.name} for step in steps],
            }
        )
        if dry_run and not as_json:
            for step in steps:
                click.echo(f"-- {step.component} version {step.version}: {step.name}\n{step.sql}")
    if as_json:
        write_json({"dry_run": dry_run, "components": results})
        return
    for result in results:
        names = ", ".join(f"{step['component']} {step['version']:04d}_{step['name']}" for step in result["steps"])
        verb = "would apply" if dry_run else "applied"
        click.echo(f"{result['component']} at {result['database']}: {f'{verb} {names}' if names else 'up to date'}")


@schema.command(
    epilog=teach(
        "outhaul schema status --component inbox --output json",
        json='{"components": [{"component", "database", "applied": int, "newest": int, "missing": [int]}]}',
    )
)
@_component
@options.connections("dsn", "outbox_dsn", "inbox_dsn")
@options.output
@click.pass_context
def status(ctx: click.Context, parts: Parts, components: tuple[str, ...], as_json: bool) -> None:
    """Tell which version the database has, and what is missing. Exit code 1 when something is."""
    results: list[dict[str, Any]] = []
    for component in components:
        newest = max((step.version for step in schema_apply.steps(component)), default=0)
        plan = schema_apply.plan(parts.database(component), component)
        results.append(
            {
                "component": component,
                "database": parts.database_settings(component).address,
                "applied": plan.applied,
                "newest": newest,
                "missing": [step.version for step in plan.missing],
            }
        )
    if as_json:
        write_json({"components": results})
    else:
        write_table(
            ("component", "database", "applied", "newest", "missing"),
            [
                (r["component"], r["database"], r["applied"], r["newest"], ", ".join(map(str, r["missing"])))
                for r in results
            ],
        )
    if any(result["missing"] for result in results):
        if not as_json:
            click.echo("Run: outhaul schema apply --component NAME", err=True)
        ctx.exit(FINDING)


@schema.command(
    epilog=teach(
        "outhaul schema grant --component order --role shop_order --as function --dsn postgresql://owner@db/shop",
        "outhaul schema grant --component outbox --component inbox --role shop_operator --as operator --dry-run",
        json='{"dry_run": bool, "role", "as": "function|operator",\n'
        '  "components": [{"component", "database", "grants": [{"component", "privileges", "on"}]}]}',
    )
)
@_component
@click.option("--role", required=True, metavar="NAME", help="A role that exists already.")
@click.option(
    "--as",
    "purpose",
    required=True,
    type=click.Choice(schema_grant.PURPOSES),
    help="function: the process the tables were made for. operator: who looks, resends and redrives.",
)
@click.option("--dry-run", is_flag=True, help="Show the SQL that would be run; change nothing.")
@options.connections("dsn", "outbox_dsn", "inbox_dsn")
@options.output
def grant(parts: Parts, components: tuple[str, ...], role: str, purpose: str, dry_run: bool, as_json: bool) -> None:
    """Give a role exactly what it needs of a component's tables, and take from it what it had of them besides.

    Connect as the role that applied the schema. Two rights are the server's to give, by a superuser: CONNECT on the
    database where PUBLIC has it no more, and pg_read_all_stats, by which an operator can name the transaction that
    holds back vacuum.
    """
    results = []
    for component in components:
        wanted = schema_grant.grants(component, purpose)
        database = parts.database_settings(component).address
        if not dry_run:
            schema_grant.grant(parts.database(component), component, role=role, purpose=purpose)
        results.append((component, database, wanted))
    if as_json:
        plain = [
            {
                "component": component,
                "database": database,
                "grants": [
                    {"component": each.component, "privileges": each.privileges, "on": each.on} for each in wanted
                ],
            }
            for component, database, wanted in results
        ]
        write_json({"dry_run": dry_run, "role": role, "as": purpose, "components": plain})
        return
    an = "an" if purpose == "operator" else "a"
    for component, database, wanted in results:
        if dry_run:
            for each in wanted:
                click.echo(f"{each.statement(role).decode()};")
        else:
            click.echo(f"{component} at {database}: {role} may do what {an} {purpose} does, and no more")

"""PostgreSQL's own errors, where they reach the command, as a sentence and an exit code."""

from __future__ import annotations

import psycopg

from outhaul.cli.exit_codes import FINDING, UNREACHABLE


def explain(error: psycopg.Error) -> tuple[str, int]:
    """What to tell a person, and the exit code."""
    said = " ".join(str(error).split())
    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
        remedy = "check that it is the right database; `outhaul schema apply` brings it up to date"
        return f"the database lacks what this release needs ({said}); {remedy}", FINDING
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return f"the database refuses this role: {said}; grant it, or connect as another role", UNREACHABLE
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return f"the database is read-only ({said}); connect to the primary", UNREACHABLE
    if isinstance(error, psycopg.OperationalError):
        return f"the database broke off: {said or type(error).__name__}; run the command again", UNREACHABLE
    return f"the database refused a statement: {type(error).__name__}: {said}", FINDING

"""Schema of a component, applied forward only: ``outhaul schema apply``.

A component (`outbox`, `inbox`, or an application's own) is a package of numbered SQL files, found by the entry point
group ``outhaul.schemas``. The package may name the components whose tables it stands on (``REQUIRES``) and its
day-partitioned tables (``PARTITIONED``). What was applied stands in the table `outhaul_schema`. All missing files of a
component are applied in one transaction under an advisory lock, so two that run at once do the work once. Every wait
for a lock is bounded: a change that waited behind a long transaction would hold up everybody else behind itself.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.resources
import itertools
import re
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from outhaul.database.partitions import DAYS_AHEAD, MAKE_PARTITIONS
from outhaul.errors import ConfigurationError, SchemaError

ENTRY_POINT_GROUP = "outhaul.schemas"
_FILE = re.compile(r"(\d{4})_(\w+)\.sql")
_LEDGER = """
CREATE TABLE IF NOT EXISTS outhaul_schema (
    component  text        NOT NULL,
    version    integer     NOT NULL,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (component, version)
)"""

# For the other one that is applying, and then for tables that are in use.
_TURN = b"SET LOCAL lock_timeout = '60s'; SELECT pg_advisory_xact_lock(hashtextextended('outhaul schema', 0))"
_LOCKS = b"SET LOCAL lock_timeout = '5s'"

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One numbered SQL file of a component."""

    component: str
    version: int
    name: str
    sql: str = field(repr=False)

    @property
    def checksum(self) -> str:
        """SHA-256 of the file: a file that changed after it was applied is a mistake, not an upgrade."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``apply`` would do: ``missing`` in order. ``applied`` is the highest version in the database, 0 for none."""

    component: str
    applied: int
    missing: tuple[Step, ...]


def components() -> dict[str, str]:
    """Every installed component and the package that holds its SQL."""
    return {point.name: point.value for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)}


def steps(component: str) -> list[Step]:
    """The component's files in order. Raises ConfigurationError for a component that is not installed."""
    found = []
    for file in importlib.resources.files(_package(component)).iterdir():
        match = _FILE.fullmatch(file.name)
        if match:
            found.append(Step(component, int(match[1]), match[2], file.read_text(encoding="utf-8")))
    found.sort(key=lambda step: step.version)
    for step, following in itertools.pairwise(found):
        if step.version == following.version:
            raise SchemaError(
                f"schema {component} has two files for version {step.version}: {step.name}, {following.name}"
            )
    return found


def requirements(component: str) -> list[str]:
    """The component and all it stands on, those first. Raises ConfigurationError for one that is not installed."""
    ordered: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise SchemaError(f"schema {component}: components require each other: {' -> '.join((*path, name))}")
        if name not in ordered:
            for required in getattr(_package(name), "REQUIRES", ()):
                visit(required, (*path, name))
            ordered.append(name)

    visit(component, ())
    return ordered


def _package(component: str) -> ModuleType:
    name = components().get(component)
    if name is None:
        raise ConfigurationError("component", component, f"choose one of {', '.join(sorted(components()))}")
    return importlib.import_module(name)


def plan(conn: Connection, component: str) -> Plan:
    """What the database lacks of this component alone. Raises SchemaError where an applied file has changed since."""
    wanted = steps(component)
    applied = _applied(conn, component)
    for step in wanted:
        if applied.get(step.version, step.checksum) != step.checksum:
            raise SchemaError(
                f"schema {component} version {step.version} ({step.name}) in the database differs from this release's "
                "file; an applied version never changes: install the release that applied it, or a newer one"
            )
    missing = tuple(step for step in wanted if step.version not in applied)
    return Plan(component, max(applied, default=0), missing)


def plans(conn: Connection, component: str) -> list[Plan]:
    """What ``apply`` would do, in its order: what the component requires, then itself. Changes nothing."""
    return [plan(conn, name) for name in requirements(component)]


def apply(conn: Connection, component: str) -> list[Step]:
    """Bring the component up to date, and those it requires before it; returns the steps that were run.

    The connection must not be inside a transaction. Safe when run twice at once. Raises SchemaError; what is wrong
    with the connection is raised as psycopg's OperationalError.
    """
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise SchemaError(f"schema {component}: apply needs a connection that is not inside a transaction")
    return [step for name in requirements(component) for step in _apply(conn, name)]


def _apply(conn: Connection, component: str) -> list[Step]:
    done: list[Step] = []
    at = f"schema {component}"
    try:
        with conn.transaction():
            conn.execute(_TURN)
            conn.execute(_LOCKS)
            conn.execute(_LEDGER)
            for step in plan(conn, component).missing:
                at = f"schema {component} version {step.version} ({step.name})"
                # The files are this package's own; a file holds several statements, so it takes no parameters.
                conn.execute(step.sql.encode())
                conn.execute(
                    "INSERT INTO outhaul_schema (component, version, name, checksum) VALUES (%s, %s, %s, %s)",
                    (component, step.version, step.name, step.checksum),
                )
                done.append(step)
        for table in getattr(_package(component), "PARTITIONED", ()):
            at = f"schema {component}, partitions of {table}"
            with conn.transaction():
                conn.execute(MAKE_PARTITIONS, (table, DAYS_AHEAD))
    except psycopg.errors.LockNotAvailable as error:
        raise SchemaError(
            f"{at}: somebody holds a lock it needs for longer than it waits; end that transaction, or run it again"
        ) from error
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        raise SchemaError(f"{at}: {error}") from error
    return done


def check(conn: Connection, component: str) -> None:
    """Raise SchemaError, naming the command to run, unless the component and what it requires are up to date.

    A database newer than this release is fine: each version is safe while the previous release still runs.
    """
    for each in plans(conn, component):
        if each.missing:
            versions = ", ".join(str(step.version) for step in each.missing)
            raise SchemaError(
                f"schema {each.component} lacks version {versions}; run `outhaul schema apply --component {component}`"
            )


def _applied(conn: Connection, component: str) -> dict[int, str]:
    cursor = psycopg.Cursor(conn, row_factory=tuple_row)
    row = cursor.execute("SELECT to_regclass('outhaul_schema') IS NOT NULL").fetchone()
    if row is None or not row[0]:
        return {}
    try:
        rows = cursor.execute("SELECT version, checksum FROM outhaul_schema WHERE component = %s", (component,))
    except psycopg.errors.InsufficientPrivilege as error:
        raise SchemaError(
            f"role {conn.info.user} may not read which versions are applied; grant it SELECT on outhaul_schema"
        ) from error
    return dict(rows.fetchall())

"""Schema of a component, applied forward only: ``outhaul schema apply``.

A component (`outbox`, `inbox`, or an application's own) is a package of numbered SQL files, found by the entry point
group ``outhaul.schemas``. The package may name the components whose tables it stands on (``REQUIRES``) and its
day-partitioned tables (``PARTITIONED``). What was applied stands in the table `outhaul_schema`. All missing files of a
component are applied in one transaction under an advisory lock, so two that run at once do the work once.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.resources
import re
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import psycopg

from outhaul.errors import ConfigurationError, SchemaError
from outhaul.partitions import DAYS_AHEAD, MAKE_PARTITIONS

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
    return sorted(found, key=lambda step: step.version)


def _package(component: str) -> ModuleType:
    name = components().get(component)
    if name is None:
        raise ConfigurationError("component", component, f"choose one of {', '.join(sorted(components()))}")
    return importlib.import_module(name)


def plan(conn: Connection, component: str) -> Plan:
    """What the database lacks of the component. Raises SchemaError where an applied file has changed since."""
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


def apply(conn: Connection, component: str) -> list[Step]:
    """Bring the component up to date, and those it requires before it; returns the steps that were run.

    The connection must not be inside a transaction. Safe when run twice at once. Raises SchemaError.
    """
    done: list[Step] = []
    package = _package(component)
    for required in getattr(package, "REQUIRES", ()):
        done += apply(conn, required)
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('outhaul schema', 0))")
        conn.execute(_LEDGER)
        for step in plan(conn, component).missing:
            try:
                # The files are this package's own; a file holds several statements, so it takes no parameters.
                conn.execute(step.sql.encode())
            except psycopg.Error as error:
                raise SchemaError(f"schema {component} version {step.version} ({step.name}): {error}") from error
            conn.execute(
                "INSERT INTO outhaul_schema (component, version, name, checksum) VALUES (%s, %s, %s, %s)",
                (component, step.version, step.name, step.checksum),
            )
            done.append(step)
    for table in getattr(package, "PARTITIONED", ()):
        with conn.transaction():
            conn.execute(MAKE_PARTITIONS, (table, DAYS_AHEAD))
    return done


def check(conn: Connection, component: str) -> None:
    """Raise SchemaError, naming the command to run, unless the component is up to date.

    A database newer than this release is fine: each version is safe while the previous release still runs.
    """
    missing = plan(conn, component).missing
    if missing:
        versions = ", ".join(str(step.version) for step in missing)
        raise SchemaError(
            f"schema {component} lacks version {versions}; run `outhaul schema apply --component {component}`"
        )


def _applied(conn: Connection, component: str) -> dict[int, str]:
    row = conn.execute("SELECT to_regclass('outhaul_schema') IS NOT NULL").fetchone()
    if row is None or not row[0]:
        return {}
    rows = conn.execute("SELECT version, checksum FROM outhaul_schema WHERE component = %s", (component,))
    return dict(rows.fetchall())

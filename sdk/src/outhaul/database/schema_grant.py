"""Grant a role exactly what it needs of a component's tables: ``outhaul schema grant``.

What that is stands beside the SQL, in the schema package's ``GRANTS``: for ``function`` (the process the tables were
made for) and ``operator`` (who looks, resends and redrives) the privileges on each table or function. Granting sets
them: what the role had of these tables besides is taken away in the same transaction, so that a release that needs less
leaves no more behind.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from outhaul.database import schema_apply
from outhaul.errors import ConfigurationError, SchemaError

PURPOSES: Final = ("function", "operator")
_TURN: Final = b"SET LOCAL lock_timeout = '60s'; SELECT pg_advisory_xact_lock(hashtextextended('outhaul schema', 0))"
_ROLE_EXISTS: Final = "SELECT 1 FROM pg_roles WHERE rolname = %s"
_OWNS: Final = "SELECT 1 FROM pg_class WHERE oid = to_regclass('outhaul_schema') AND relowner = %s::regrole"
_SEES_SCHEMA: Final = "SELECT has_schema_privilege(%s, current_schema(), 'USAGE')"

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Grant:
    """Privileges (``SELECT, INSERT``) on one object: a table, or ``FUNCTION name(types)``."""

    component: str
    privileges: str
    on: str

    def statement(self, role: str) -> bytes:
        """The SQL. Object and privileges are an installed package's own; the role is quoted."""
        return f"GRANT {self.privileges} ON {self.on} TO {_quoted(role)}".encode()


def grants(component: str, purpose: str) -> list[Grant]:
    """What a role of that purpose needs of the component and of all it stands on.

    Raises ConfigurationError for a component that is not installed, or that has nothing for such a role.
    """
    if purpose not in PURPOSES:
        raise ConfigurationError("--as", purpose, f"choose one of {', '.join(PURPOSES)}")
    found = [
        Grant(name, privileges, on)
        for name in schema_apply.requirements(component)
        for on, privileges in _declared(name).get(purpose, {}).items()
    ]
    if not found:
        raise ConfigurationError("component", component, f"declares no grants for {purpose}; grant by hand")
    return found


def grant(conn: Connection, component: str, *, role: str, purpose: str) -> list[Grant]:
    """Set the role's privileges on the component's tables, and on those it stands on, to what is declared.

    The connection is the owner's and not inside a transaction. Harmless when run again. Raises ConfigurationError for a
    role that does not exist or that owns the tables; SchemaError for tables that are missing or are somebody else's.
    """
    wanted = grants(component, purpose)
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise SchemaError(f"schema {component}: grant needs a connection that is not inside a transaction")
    if not _one(conn, _ROLE_EXISTS, role):
        raise ConfigurationError("--role", role, "does not exist; create it first: CREATE ROLE ... LOGIN PASSWORD ...")
    schema_apply.check(conn, component)
    if _one(conn, _OWNS, _quoted(role)):
        raise ConfigurationError("--role", role, "owns the tables and may do everything; grant to a role of its own")
    try:
        with conn.transaction():
            conn.execute(_TURN)
            if not _one(conn, _SEES_SCHEMA, role):
                conn.execute(
                    sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(
                        sql.Identifier(str(_one(conn, "SELECT current_schema()"))), sql.Identifier(role)
                    )
                )
            for on in _objects(component):
                conn.execute(f"REVOKE ALL ON {on} FROM {_quoted(role)}".encode())
            for each in wanted:
                conn.execute(each.statement(role))
    except psycopg.errors.InsufficientPrivilege as error:
        raise SchemaError(
            f"role {conn.info.user} may not grant on the tables of {component}: {error.diag.message_primary}; "
            "connect as the role that applied the schema"
        ) from error
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        raise SchemaError(f"schema {component}, grants to {role}: {error}") from error
    return wanted


def _declared(component: str) -> Mapping[str, Mapping[str, str]]:
    package = importlib.import_module(schema_apply.components()[component])
    declared: Mapping[str, Mapping[str, str]] = getattr(package, "GRANTS", {})
    return declared


def _objects(component: str) -> list[str]:
    """Everything that any role is granted something on."""
    every = [
        on for name in schema_apply.requirements(component) for purpose in _declared(name).values() for on in purpose
    ]
    return list(dict.fromkeys(every))


def _quoted(role: str) -> str:
    return sql.Identifier(role).as_string()


def _one(conn: Connection, query: str, *parameters: str) -> Any:
    row = psycopg.Cursor(conn).execute(query.encode(), parameters).fetchone()
    return row[0] if row else None

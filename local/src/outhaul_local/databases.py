"""The two databases: made, brought to the current schema, and opened to one role per function.

Three kinds of identity: the server's superuser makes databases and roles; ``outhaul_admin`` owns both databases,
applies the schema and is what people use; each function's role reads and writes rows of its own database, no more.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from outhaul.database import schema_apply
from outhaul.errors import SchemaError
from outhaul_local.failure import LocalFailure
from outhaul_local.postgres import PostgresServer
from outhaul_local.state import FUNCTIONS, PostgresState

ADMIN = "outhaul_admin"


def role(function: str) -> str:
    """A function's PostgreSQL role, and the name of its database."""
    return f"outhaul_{function}"


def provision(server: PostgresServer, state: PostgresState) -> list[str]:
    """Make what is missing; returns the schema steps that were run, to be shown. Raises :class:`LocalFailure`."""
    try:
        with psycopg.connect(server.url(), autocommit=True) as conn:
            _role(conn, ADMIN, state.admin_password)
            # So that `outhaul doctor` can name a transaction that keeps rows from being vacuumed, whosever it is.
            conn.execute(sql.SQL("GRANT pg_read_all_stats TO {}").format(sql.Identifier(ADMIN)))
            # So that examples and trials can have databases of their own beside these two.
            conn.execute(sql.SQL("ALTER ROLE {} CREATEDB").format(sql.Identifier(ADMIN)))
            for function in FUNCTIONS:
                _role(conn, role(function), state.role_passwords[function])
                _database(conn, function)
        done = []
        for function in FUNCTIONS:
            url = server.url(role(function), user=ADMIN, password=state.admin_password)
            done += apply_schema(url, function)
            with psycopg.connect(url) as conn:
                _grant(conn, role(function))
    except psycopg.Error as error:
        raise LocalFailure(f"the databases cannot be prepared: {error}", log=server.log) from error
    return done


def apply_schema(url: str, component: str) -> list[str]:
    """Bring one component's schema up to date; returns the names of the steps that were run."""
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as conn:
            return [f"{step.component} {step.version}" for step in schema_apply.apply(conn, component)]
    except SchemaError as error:
        raise LocalFailure(
            str(error), remedy="`make down DATA=delete`, then `make up`, starts with empty databases"
        ) from error


def _role(conn: psycopg.Connection[tuple[object, ...]], name: str, password: str) -> None:
    found = conn.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchone()
    # The password is set anew: state.json may be younger than the data.
    verb = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}" if found else "CREATE ROLE {} LOGIN PASSWORD {}")
    conn.execute(verb.format(sql.Identifier(name), sql.Literal(password)))


def _database(conn: psycopg.Connection[tuple[object, ...]], function: str) -> None:
    name = role(function)
    if conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
        return
    make = sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(ADMIN))
    conn.execute(make)
    # Otherwise every role may connect to every database.
    for statement in ("REVOKE CONNECT ON DATABASE {0} FROM PUBLIC", "GRANT CONNECT ON DATABASE {0} TO {1}"):
        conn.execute(sql.SQL(statement).format(sql.Identifier(name), sql.Identifier(name)))


def _grant(conn: psycopg.Connection[tuple[object, ...]], name: str) -> None:
    statements = (
        "GRANT USAGE ON SCHEMA public TO {0}",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {0}",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {0}",
        # Day partitions are made and dropped by functions that run with their owner's rights.
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {0}",
        # What was applied is the owner's to write.
        "REVOKE INSERT, UPDATE, DELETE ON outhaul_schema FROM {0}",
    )
    for statement in statements:
        conn.execute(sql.SQL(statement).format(sql.Identifier(name)))

"""Databases and roles as SQL that may be run again and again: what is missing is made, what was changed is put back.

A database a function; for each a role that owns the tables, the function's own and the operator's. Who owns nothing can
connect and is granted the rest by the schema Job. Passwords stand in it as verifiers alone.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from outhaul_infra.names import FUNCTIONS, database, operator_role, owner, roles

_ROLE: Final = "SELECT FROM pg_roles WHERE rolname = '%s'"
_DATABASE: Final = "SELECT FROM pg_database WHERE datname = '%s'"
_ITERATIONS: Final = 4096  # PostgreSQL's own default (scram_iterations)


def scram_verifier(role: str, password: str) -> str:
    """What PostgreSQL keeps of a password, by RFC 5803: ``SCRAM-SHA-256$4096:<salt>$<StoredKey>:<ServerKey>``.

    The salt comes from role and password, not from chance, so that the same settings give the same text. The password
    is printable ASCII, which SASLprep leaves as it is.
    """
    salt = hmac.digest(password.encode(), f"postgres {role}".encode(), "sha256")[:16]
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt_text, stored_text, server_text = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${_ITERATIONS}:{salt_text}${stored_text}:{server_text}"


def roles_of(function: str) -> tuple[str, ...]:
    """Owner, function and operator."""
    return tuple(role for role, _ in roles(function))


def roles_sql(passwords: Mapping[str, str]) -> str:
    """A script for psql and a role that may create roles and databases; ``passwords`` by role."""
    parts = [part for function in FUNCTIONS for part in _function(function, passwords)]
    return "\n".join(("\\set ON_ERROR_STOP on", *parts, ""))


def _function(function: str, passwords: Mapping[str, str]) -> list[str]:
    name, everybody = database(function), roles_of(function)
    return [
        *(line for role in everybody for line in _role(role, passwords[role])),
        # It names the transaction that keeps a table from being cleaned up.
        f"GRANT pg_read_all_stats TO {operator_role(function)};",
        f"SELECT 'CREATE DATABASE {name} OWNER {owner(function)}' WHERE NOT EXISTS ({_DATABASE % name}) \\gexec",
        f"ALTER DATABASE {name} OWNER TO {owner(function)};",
        f"REVOKE ALL ON DATABASE {name} FROM PUBLIC;",
        f"GRANT CONNECT ON DATABASE {name} TO {', '.join(everybody[1:])};",
    ]


def _role(role: str, password: str) -> tuple[str, str]:
    attributes = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
    return (
        f"SELECT 'CREATE ROLE {role}' WHERE NOT EXISTS ({_ROLE % role}) \\gexec",
        f"ALTER ROLE {role} {attributes} PASSWORD '{scram_verifier(role, password)}';",
    )

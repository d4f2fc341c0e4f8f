"""Names that the stack gives: fixed, so that an update finds what an earlier one made, whatever the order of things."""

from __future__ import annotations

from typing import Final

FUNCTIONS: Final = ("order", "waybill")

RABBITMQ: Final = "outhaul-rabbitmq"
RABBITMQ_NODES: Final = "outhaul-rabbitmq-nodes"
RABBITMQ_CONFIG: Final = "outhaul-rabbitmq-config"
RABBITMQ_USERS: Final = "outhaul-rabbitmq-users"
RABBITMQ_COOKIE: Final = "outhaul-rabbitmq-cookie"
RABBITMQ_ADMIN: Final = "outhaul-rabbitmq-admin"
POSTGRES: Final = "outhaul-postgres"
POSTGRES_CONFIG: Final = "outhaul-postgres-config"
POSTGRES_ROLES: Final = "outhaul-postgres-roles"
AUTHORITY: Final = "outhaul-authority"
RELEASE: Final = "outhaul"

LABEL_NAME: Final = "app.kubernetes.io/name"
ALLOW_LABEL: Final = "outhaul.dev/allow"  # the operator uses no Secret that lacks it


def database(function: str) -> str:
    """A function's database, and the role it works as."""
    return f"outhaul_{function}"


def owner(function: str) -> str:
    """The role that owns a function's database and applies its schema."""
    return f"outhaul_{function}_owner"


def operator_role(function: str) -> str:
    """The role the operator and its Jobs use on a function's database."""
    return f"outhaul_{function}_operator"


def roles(function: str) -> tuple[tuple[str, str], ...]:
    """A function's roles, each with what it is: owner, nothing (the function itself), operator."""
    return (owner(function), "owner"), (database(function), ""), (operator_role(function), "operator")


def broker_user(identity: str) -> str:
    """The RabbitMQ user of a function, or of another identity (operator, topology, keda, admin)."""
    return f"outhaul-{identity}"

"""Which secrets a stack has: one for each identity, none shared. Made once by `python -m outhaul_infra.secrets`.

They are Pulumi configuration secrets and no generated resources, so that nothing makes them anew behind one's back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ERLANG_COOKIE: Final = "rabbitmqErlangCookie"


def broker_password(identity: str) -> str:
    """The key of a RabbitMQ user's password."""
    return f"rabbitmq{identity.capitalize()}Password"


def database_password(function: str, kind: str = "") -> str:
    """The key of a PostgreSQL role's password; ``kind`` is empty, owner or operator."""
    return f"postgres{function.capitalize()}{kind.capitalize()}Password"


BROKER_IDENTITIES: Final = ("order", "waybill", "operator", "topology", "keda", "admin")

PASSWORDS: Final[Mapping[str, str]] = {
    **{broker_password(who): f"RabbitMQ user outhaul-{who}" for who in BROKER_IDENTITIES},
    **{
        database_password(function, kind): f"PostgreSQL role outhaul_{function}{f'_{kind}' if kind else ''}"
        for function in ("order", "waybill")
        for kind in ("owner", "", "operator")
    },
    ERLANG_COOKIE: "what RabbitMQ's nodes prove to each other",
}

# Keys that no rolling restart can bring in, each with the way out.
NOT_RENEWED: Final[Mapping[str, str]] = {
    ERLANG_COOKIE: (
        "cannot be renewed while the broker runs: nodes of two cookies do not speak to each other, and the first that "
        "restarts would be alone. docs/deployment.md, “Another Erlang cookie”, tells how by a full stop"
    ),
}


def needed(*, rabbitmq_mode: str, keda: bool) -> tuple[str, ...]:
    """The keys a stack in these modes cannot be without."""
    left_out = set()
    if rabbitmq_mode != "statefulset":
        left_out.add(ERLANG_COOKIE)  # the cluster operator makes its own
    if rabbitmq_mode == "external":
        left_out.add(broker_password("admin"))
    if not keda:
        left_out.add(broker_password("keda"))
    return tuple(key for key in PASSWORDS if key not in left_out)

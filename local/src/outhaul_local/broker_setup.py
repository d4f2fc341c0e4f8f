"""Users and topology on the broker: one user per function with the rights it uses, no more.

Rights are three patterns (configure, write, read) over names of exchanges and queues; see RabbitMQ's documentation,
"Access Control". Functions declare nothing, so they may configure nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import httpx

from outhaul.broker_admin import topology_apply
from outhaul.errors import OuthaulError
from outhaul.settings import BrokerSettings, ManagementSettings
from outhaul_local.failure import LocalFailure
from outhaul_waybill.topology import TOPOLOGY

NOTHING = "^$"
RIGHTS: Final[Mapping[str, Mapping[str, str]]] = {
    "order": {"configure": NOTHING, "write": r"^outhaul\.events$", "read": NOTHING},
    "waybill": {"configure": NOTHING, "write": r"^outhaul\.(retry|dlx)$", "read": r"^outhaul\.waybill$"},
}


def user_name(function: str) -> str:
    """A function's RabbitMQ user."""
    return f"outhaul-{function}"


def make_users(management_url: str, passwords: Mapping[str, str]) -> None:
    """Make or update the functions' users on our own broker. Raises :class:`LocalFailure`."""
    try:
        with httpx.Client(base_url=management_url, timeout=30, trust_env=False) as api:
            for function, rights in RIGHTS.items():
                user = user_name(function)
                body = {"password": passwords[function], "tags": ""}
                api.put(f"/api/users/{user}", json=body).raise_for_status()
                api.put(f"/api/permissions/%2F/{user}", json=dict(rights)).raise_for_status()
    except httpx.HTTPError as error:
        raise LocalFailure(f"the broker's users cannot be made: {error}") from error


def apply_topology(amqp_url: str, management_url: str) -> None:
    """Declare exchanges, queues, bindings and policies. Raises :class:`LocalFailure`."""
    try:
        topology_apply.apply(
            TOPOLOGY,
            BrokerSettings.parse(amqp_url, setting="OUTHAUL_AMQP_URL"),
            ManagementSettings.parse(management_url, setting="OUTHAUL_MANAGEMENT_URL"),
        )
    except OuthaulError as error:
        raise LocalFailure(f"the topology cannot be applied: {error}") from error

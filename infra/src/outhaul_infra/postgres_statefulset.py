"""`postgres.mode: statefulset`: one PostgreSQL server made by this stack alone."""

from __future__ import annotations

import pulumi

from outhaul_infra import names, passwords
from outhaul_infra import postgres_manifests as manifests
from outhaul_infra.endpoints import DatabaseEndpoint
from outhaul_infra.manifests import Manifest, checksum, secret
from outhaul_infra.network import postgres_policy
from outhaul_infra.postgres_roles import roles_sql
from outhaul_infra.registering import register
from outhaul_infra.stack import Stack


class PostgresStatefulSet(pulumi.ComponentResource):
    """The server, its configuration and roles, and the Service that leads to it."""

    def __init__(self, name: str, stack: Stack, *, tls_secret: str | None, opts: pulumi.ResourceOptions) -> None:
        super().__init__("outhaul:infra:PostgresStatefulSet", name, None, opts)
        settings, tls = stack.settings.postgres, tls_secret is not None
        roles = roles_sql(role_passwords(stack))
        beside: list[Manifest] = [
            manifests.configuration_map(settings, stack.data, tls=tls),
            secret(names.POSTGRES_ROLES, stack.data, {"roles.sql": roles}, part=names.POSTGRES),
            *manifests.others(stack.data),
        ]
        if stack.settings.network_policies:
            beside.append(postgres_policy(stack.settings))
        made = [register(manifest, stack.options(self)) for manifest in beside]
        server = manifests.stateful_set(
            settings,
            stack.data,
            roles_checksum=checksum(roles),
            retain_data=stack.settings.retain_data,
            tls_secret=tls_secret,
        )
        self.server = register(server, stack.data_options(self, *made))
        self.endpoint = DatabaseEndpoint(host=f"{names.POSTGRES}.{stack.data}.svc", port=manifests.PORT, tls=tls)
        self.register_outputs({"host": self.endpoint.host, "port": self.endpoint.port})


def role_passwords(stack: Stack) -> dict[str, str]:
    """Every role's password, by the role's name."""
    return {
        role: stack.password(passwords.database_password(function, kind))
        for function in names.FUNCTIONS
        for role, kind in names.roles(function)
    }

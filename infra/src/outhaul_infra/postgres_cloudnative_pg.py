"""`postgres.mode: cloudnative-pg`: a Cluster for the operator of that name, which must run in the cluster."""

from __future__ import annotations

from typing import Any

import pulumi

from outhaul_infra import names
from outhaul_infra.endpoints import DatabaseEndpoint
from outhaul_infra.manifests import Manifest, metadata, resources, secret
from outhaul_infra.postgres_config import hba_lines
from outhaul_infra.postgres_manifests import PORT
from outhaul_infra.postgres_roles import roles_of
from outhaul_infra.postgres_statefulset import role_passwords
from outhaul_infra.registering import register
from outhaul_infra.setting_fields import quantity_value
from outhaul_infra.settings import Postgres
from outhaul_infra.stack import Stack

API_VERSION = "postgresql.cnpg.io/v1"


class PostgresCloudNativePG(pulumi.ComponentResource):
    """The Cluster, its roles with their Secrets, and a Database for each function."""

    def __init__(self, name: str, stack: Stack, *, tls_secret: str | None, opts: pulumi.ResourceOptions) -> None:
        super().__init__("outhaul:infra:PostgresCloudNativePG", name, None, opts)
        made = [
            register(role_secret(role, password, stack.data), stack.kept_options(self))
            for role, password in role_passwords(stack).items()
        ]
        cluster = postgres_cluster(stack.settings.postgres, stack.data, tls_secret=tls_secret)
        # Its operator deletes the volumes with it.
        self.server = register(cluster, stack.kept_options(self, *made))
        for function in names.FUNCTIONS:
            register(database(function, stack.data), stack.kept_options(self, self.server))
        self.endpoint = DatabaseEndpoint(
            host=f"{names.POSTGRES}-rw.{stack.data}.svc", port=PORT, tls=tls_secret is not None
        )
        self.register_outputs({"host": self.endpoint.host, "port": self.endpoint.port})


def secret_name(role: str) -> str:
    """Where the operator finds a role's password."""
    return f"{names.POSTGRES}-{role.removeprefix('outhaul_').replace('_', '-')}"


def role_secret(role: str, password: str, namespace: str) -> Manifest:
    """Read again by the operator whenever it changes, so that a rotated password needs no restart."""
    made = secret(
        secret_name(role),
        namespace,
        {"username": role, "password": password},
        part=names.POSTGRES,
        kind="kubernetes.io/basic-auth",
    )
    made["metadata"]["labels"]["cnpg.io/reload"] = "true"
    return made


def postgres_cluster(settings: Postgres, namespace: str, *, tls_secret: str | None) -> Manifest:
    """The custom resource. The operator makes certificates of its own where none is given."""
    tls = tls_secret is not None
    storage: dict[str, Any] = {"size": settings.storage}
    if settings.storage_class is not None:
        storage["storageClass"] = settings.storage_class
    spec: dict[str, Any] = {
        "instances": settings.replicas,
        "imageName": settings.operator_image,
        "storage": storage,
        "resources": resources(settings.cpu, settings.memory),
        "enablePDB": settings.replicas > 1,
        "postgresql": {
            "parameters": {
                "max_connections": str(settings.max_connections),
                "shared_buffers": f"{int(quantity_value(settings.memory) / 4 / 2**20)}MB",
            },
            # After these its operator lets every role into every database by password, without TLS too.
            "pg_hba": [*hba_lines(tls=tls), "host all all all reject"],
        },
        # A database nobody uses: ours are Databases of their own, alike.
        "bootstrap": {"initdb": {"database": "unused", "owner": "unused"}},
        "managed": {
            "roles": [
                {
                    "name": role,
                    "ensure": "present",
                    "login": True,
                    "passwordSecret": {"name": secret_name(role)},
                    "inRoles": ["pg_read_all_stats"] if role == names.operator_role(function) else [],
                }
                for function in names.FUNCTIONS
                for role in roles_of(function)
            ]
        },
    }
    if tls_secret is not None:
        spec["certificates"] = {"serverTLSSecret": tls_secret, "serverCASecret": tls_secret}
    described = metadata(names.POSTGRES, namespace)
    described["annotations"] = {"pulumi.com/waitFor": "condition=Ready"}
    return {"apiVersion": API_VERSION, "kind": "Cluster", "metadata": described, "spec": spec}


def database(function: str, namespace: str) -> Manifest:
    """A function's database; it stays in the server when the resource goes."""
    described = metadata(f"{names.POSTGRES}-{function}", namespace, part=names.POSTGRES)
    described["annotations"] = {"pulumi.com/waitFor": "jsonpath={.status.applied}=true"}
    return {
        "apiVersion": API_VERSION,
        "kind": "Database",
        "metadata": described,
        "spec": {
            "cluster": {"name": names.POSTGRES},
            "name": names.database(function),
            "owner": names.owner(function),
            "databaseReclaimPolicy": "retain",
        },
    }

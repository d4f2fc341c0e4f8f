"""The stack: what depends on what, from the cluster to the custom resources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime.config import CONFIG, is_config_secret
from pulumi_kubernetes import Provider

from outhaul.errors import ConfigurationError
from outhaul_infra.application import Application
from outhaul_infra.certificates import Certificates
from outhaul_infra.credentials import Credentials
from outhaul_infra.endpoints import BrokerEndpoint, DatabaseEndpoint
from outhaul_infra.keda import Keda
from outhaul_infra.namespaces import Namespaces
from outhaul_infra.outputs import outputs
from outhaul_infra.postgres_cloudnative_pg import PostgresCloudNativePG
from outhaul_infra.postgres_external import external_database
from outhaul_infra.postgres_statefulset import PostgresStatefulSet
from outhaul_infra.rabbitmq_cluster_operator import RabbitMQClusterOperator
from outhaul_infra.rabbitmq_external import external_broker
from outhaul_infra.rabbitmq_statefulset import RabbitMQStatefulSet
from outhaul_infra.settings import CLOUDNATIVE_PG, CLUSTER_OPERATOR, EXTERNAL, StackSettings, read_settings
from outhaul_infra.settings_checks import check
from outhaul_infra.stack import Stack


def run(root: Path) -> None:
    """The program: ``root`` is the folder that Pulumi.yaml and the chart are in. Raises RunError for a bad setting."""
    config = CONFIG.get()
    try:
        settings = check(read_settings(config, secret_keys=frozenset(filter(is_config_secret, config))))
    except ConfigurationError as error:
        # The one that Pulumi shows without a traceback.
        raise pulumi.RunError(str(error)) from error
    for name, value in deploy(settings, root=root).items():
        pulumi.export(name, value)


def deploy(settings: StackSettings, *, root: Path) -> dict[str, Any]:
    """Register everything; returns the stack's outputs."""
    provider = kubernetes("kubernetes", settings)
    stack = Stack(settings, finding=kubernetes("kubernetes-finding", settings, finds=True))
    common = pulumi.ResourceOptions(provider=provider)
    ready: list[pulumi.Resource] = []
    if settings.namespaces.create:
        ready.append(Namespaces("namespaces", stack, opts=common))
    certificates = Certificates("certificates", stack, opts=_after(common, ready))
    ready.append(certificates)
    broker = _broker(stack, certificates, _after(common, ready), ready)
    database = _database(stack, certificates, _after(common, ready), ready)
    if settings.keda.install:
        ready.append(Keda("keda", stack, opts=common))
    credentials = Credentials("credentials", stack, broker=broker, database=database, opts=_after(common, ready))
    ready.append(credentials)
    Application(
        "application",
        stack,
        root=root,
        authority_secret=certificates.authority_secret,
        credentials=credentials.checksum,
        opts=_after(common, ready),
    )
    return outputs(settings)


def kubernetes(name: str, settings: StackSettings, *, finds: bool = False) -> Provider:
    """A provider, explicit. An edited ConfigMap is an update here; by default all brokers are replaced for a line.

    ``finds``: an object that is there already is taken up, where else the stack refuses to make it.
    """
    return Provider(
        name,
        kubeconfig=settings.cluster.kubeconfig,
        context=settings.cluster.context,
        enable_config_map_mutable=True,
        enable_secret_mutable=True,
        upsert_existing_objects=finds,
    )


def _broker(
    stack: Stack, certificates: Certificates, opts: pulumi.ResourceOptions, ready: list[pulumi.Resource]
) -> BrokerEndpoint:
    mode = stack.settings.rabbitmq.mode
    if mode == EXTERNAL:
        return external_broker(stack.settings)
    kind = RabbitMQClusterOperator if mode == CLUSTER_OPERATOR else RabbitMQStatefulSet
    made = kind("rabbitmq", stack, tls_secret=certificates.rabbitmq_secret, opts=opts)
    ready.append(made)
    return made.endpoint


def _database(
    stack: Stack, certificates: Certificates, opts: pulumi.ResourceOptions, ready: list[pulumi.Resource]
) -> DatabaseEndpoint:
    mode = stack.settings.postgres.mode
    if mode == EXTERNAL:
        return external_database(stack.settings)
    kind = PostgresCloudNativePG if mode == CLOUDNATIVE_PG else PostgresStatefulSet
    made = kind("postgres", stack, tls_secret=certificates.postgres_secret, opts=opts)
    ready.append(made)
    return made.endpoint


def _after(common: pulumi.ResourceOptions, ready: list[pulumi.Resource]) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions.merge(common, pulumi.ResourceOptions(depends_on=list(ready)))

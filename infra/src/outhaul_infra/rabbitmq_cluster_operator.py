"""`rabbitmq.mode: cluster-operator`: a RabbitmqCluster for the operator of that name, which must run in the cluster."""

from __future__ import annotations

from typing import Any, Final

import pulumi

from outhaul_infra import names
from outhaul_infra.broker_config import DEFINITIONS_FILE, broker_config
from outhaul_infra.manifests import CONTAINER_SECURITY, Manifest, checksum, metadata, resources, secret, soft_spread
from outhaul_infra.rabbitmq_statefulset import admin_secret, broker_definitions, service_endpoint
from outhaul_infra.registering import register
from outhaul_infra.settings import RabbitMQ
from outhaul_infra.stack import Stack

# The operator labels its pods by itself; of our labels they have this one alone.
PODS: Final = {names.LABEL_NAME: names.RABBITMQ}


class RabbitMQClusterOperator(pulumi.ComponentResource):
    """The RabbitmqCluster and the users it reads at its start."""

    def __init__(self, name: str, stack: Stack, *, tls_secret: str | None, opts: pulumi.ResourceOptions) -> None:
        super().__init__("outhaul:infra:RabbitMQClusterOperator", name, None, opts)
        users = broker_definitions(stack)
        register(admin_secret(stack), stack.options(self))
        mounted = secret(names.RABBITMQ_USERS, stack.data, {"definitions.json": users}, part=names.RABBITMQ)
        made = register(mounted, stack.kept_options(self))
        cluster = rabbitmq_cluster(
            stack.settings.rabbitmq, stack.data, users_checksum=checksum(users), tls_secret=tls_secret
        )
        # Its operator deletes the volumes with it.
        self.nodes = register(cluster, stack.kept_options(self, made))
        self.endpoint = service_endpoint(stack.data, tls=tls_secret is not None)
        self.register_outputs({"host": self.endpoint.host, "port": self.endpoint.port})


def rabbitmq_cluster(settings: RabbitMQ, namespace: str, *, users_checksum: Any, tls_secret: str | None) -> Manifest:
    """The custom resource. What the operator writes into rabbitmq.conf itself is left to it."""
    conf = broker_config(
        replicas=settings.replicas,
        memory=settings.memory,
        storage=settings.storage,
        tls=False,
        extra=settings.extra_config,
        discovery=False,
    )
    persistence: dict[str, Any] = {"storage": settings.storage}
    if settings.storage_class is not None:
        persistence["storageClassName"] = settings.storage_class
    spec: dict[str, Any] = {
        "replicas": settings.replicas,
        "image": settings.image,
        "persistence": persistence,
        "resources": resources(settings.cpu, settings.memory),
        "terminationGracePeriodSeconds": settings.grace_seconds,
        "rabbitmq": {"additionalConfig": conf},
        "override": {"statefulSet": {"spec": {"template": _pod_template(users_checksum)}}},
    }
    if tls_secret is not None:
        spec["tls"] = {"secretName": tls_secret, "caSecretName": tls_secret, "disableNonTLSListeners": True}
    described = metadata(names.RABBITMQ, namespace)
    described["annotations"] = {"pulumi.com/waitFor": "condition=AllReplicasReady"}
    return {
        "apiVersion": "rabbitmq.com/v1beta1",
        "kind": "RabbitmqCluster",
        "metadata": described,
        "spec": spec,
    }


def _pod_template(users_checksum: Any) -> Manifest:
    # Merged into the operator's own by the containers' names.
    security = {"allowPrivilegeEscalation": False, "capabilities": CONTAINER_SECURITY["capabilities"]}
    return {
        "metadata": {"annotations": {"outhaul.dev/users": users_checksum}},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "topologySpreadConstraints": soft_spread(PODS),
            "initContainers": [{"name": "setup-container", "securityContext": dict(security)}],
            "containers": [
                {
                    "name": "rabbitmq",
                    "securityContext": dict(security),
                    "volumeMounts": [
                        {"name": "users", "mountPath": DEFINITIONS_FILE.rpartition("/")[0], "readOnly": True}
                    ],
                }
            ],
            "volumes": [{"name": "users", "secret": {"secretName": names.RABBITMQ_USERS}}],
        },
    }

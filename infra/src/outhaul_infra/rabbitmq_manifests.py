"""RabbitMQ as a StatefulSet that needs nothing but a cluster, as manifests.

Nodes find each other by their names alone (from RabbitMQ 4.1 on peer discovery asks no API server), start at once, and
one leaves only while the others hold a majority of every quorum queue it is a member of.
"""

from __future__ import annotations

from typing import Any, Final

from outhaul_infra import names
from outhaul_infra.broker_config import CONFIG_FOLDER, DEFINITIONS_FILE, TLS_FOLDER, broker_config, enabled_plugins
from outhaul_infra.manifests import (
    CONTAINER_SECURITY,
    POD_SECURITY,
    Manifest,
    checksum,
    config_map,
    disruption_budget,
    labels,
    metadata,
    resources,
    service_account,
    soft_spread,
    volume_claim,
)
from outhaul_infra.settings import RabbitMQ

DATA_FOLDER: Final = "/var/lib/rabbitmq"
PROMETHEUS_PORT: Final = 15692
_COOKIE_FOLDER: Final = "/run/erlang-cookie"


def amqp_port(*, tls: bool) -> int:
    """Where AMQP is served."""
    return 5671 if tls else 5672


def management_port(*, tls: bool) -> int:
    """Where the management API is served."""
    return 15671 if tls else 15672


def configuration(settings: RabbitMQ, *, tls: bool) -> dict[str, str]:
    """The files of the configuration folder, which the ConfigMap takes the place of."""
    return {
        "rabbitmq.conf": broker_config(
            replicas=settings.replicas,
            memory=settings.memory,
            storage=settings.storage,
            tls=tls,
            extra=settings.extra_config,
        ),
        "enabled_plugins": enabled_plugins(),
    }


def configuration_map(settings: RabbitMQ, namespace: str, *, tls: bool) -> Manifest:
    """The ConfigMap with those files."""
    return config_map(names.RABBITMQ_CONFIG, namespace, configuration(settings, tls=tls), part=names.RABBITMQ)


def services(namespace: str, *, tls: bool) -> tuple[Manifest, Manifest]:
    """One for clients, one that gives each node its name."""
    ports = [
        {"name": "amqps" if tls else "amqp", "port": amqp_port(tls=tls)},
        {"name": "management", "port": management_port(tls=tls)},
        {"name": "prometheus", "port": PROMETHEUS_PORT},
    ]
    between = [{"name": "epmd", "port": 4369}, {"name": "distribution", "port": 25672}]
    return (
        _service(names.RABBITMQ, namespace, {"ports": ports}),
        # A node must find the others before any of them is ready.
        _service(
            names.RABBITMQ_NODES,
            namespace,
            {"clusterIP": "None", "publishNotReadyAddresses": True, "ports": between},
        ),
    )


def _service(name: str, namespace: str, spec: dict[str, Any]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(name, namespace, part=names.RABBITMQ),
        "spec": {"selector": labels(names.RABBITMQ)} | spec,
    }


def others(settings: RabbitMQ, namespace: str) -> tuple[Manifest, ...]:
    """What stands beside the StatefulSet and changes never."""
    account = service_account(names.RABBITMQ, namespace)
    return (account,) if settings.replicas == 1 else (account, disruption_budget(names.RABBITMQ, namespace))


def stateful_set(
    settings: RabbitMQ, namespace: str, *, users_checksum: Any, retain_data: bool, tls_secret: str | None
) -> Manifest:
    """The nodes. ``users_checksum`` changes when a password does, and may be a Pulumi output."""
    tls = tls_secret is not None
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(names.RABBITMQ, namespace),
        "spec": {
            "replicas": settings.replicas,
            "serviceName": names.RABBITMQ_NODES,
            # After an outage of all, a node waits for those that stopped after it: one by one it would wait for ever.
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": labels(names.RABBITMQ)},
            "persistentVolumeClaimRetentionPolicy": {
                "whenDeleted": "Retain" if retain_data else "Delete",
                "whenScaled": "Retain",
            },
            "volumeClaimTemplates": [volume_claim("data", settings.storage, settings.storage_class)],
            "template": {
                "metadata": {
                    "labels": labels(names.RABBITMQ),
                    "annotations": {
                        "outhaul.dev/config": checksum(*configuration(settings, tls=tls).values()),
                        "outhaul.dev/users": users_checksum,
                    },
                },
                "spec": _pod(settings, namespace, tls_secret=tls_secret),
            },
        },
    }


def _pod(settings: RabbitMQ, namespace: str, *, tls_secret: str | None) -> dict[str, Any]:
    volumes: list[Manifest] = [
        {"name": "config", "configMap": {"name": names.RABBITMQ_CONFIG}},
        {"name": "users", "secret": {"secretName": names.RABBITMQ_USERS}},
        {"name": "cookie", "secret": {"secretName": names.RABBITMQ_COOKIE}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if tls_secret is not None:
        volumes.append({"name": "tls", "secret": {"secretName": tls_secret, "defaultMode": 0o440}})
    return {
        "serviceAccountName": names.RABBITMQ,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": dict(POD_SECURITY),
        "terminationGracePeriodSeconds": settings.grace_seconds,
        "topologySpreadConstraints": soft_spread(labels(names.RABBITMQ)),
        "initContainers": [_cookie(settings)],
        "containers": [_server(settings, namespace, tls=tls_secret is not None)],
        "volumes": volumes,
    }


def _cookie(settings: RabbitMQ) -> Manifest:
    # Erlang takes a cookie only from a file of the server's own user that nobody else can read, which a mounted Secret
    # is not; and the root file system is read-only.
    script = (
        f"umask 077 && cat {_COOKIE_FOLDER}/cookie > {DATA_FOLDER}/.erlang.cookie.new"
        f" && chmod 400 {DATA_FOLDER}/.erlang.cookie.new"
        f" && mv -f {DATA_FOLDER}/.erlang.cookie.new {DATA_FOLDER}/.erlang.cookie"
    )
    return {
        "name": "cookie",
        "image": settings.image,
        "command": ["sh", "-c", script],
        "securityContext": dict(CONTAINER_SECURITY),
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "volumeMounts": [
            {"name": "data", "mountPath": DATA_FOLDER},
            {"name": "cookie", "mountPath": _COOKIE_FOLDER, "readOnly": True},
        ],
    }


def _server(settings: RabbitMQ, namespace: str, *, tls: bool) -> Manifest:
    ports = {
        "amqp": amqp_port(tls=tls),
        "management": management_port(tls=tls),
        "prometheus": PROMETHEUS_PORT,
        "epmd": 4369,
        "distribution": 25672,
    }
    mounts: list[Manifest] = [
        {"name": "data", "mountPath": DATA_FOLDER},
        {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True},
        {"name": "users", "mountPath": DEFINITIONS_FILE.rpartition("/")[0], "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a mount point inside the container
    ]
    if tls:
        mounts.append({"name": "tls", "mountPath": TLS_FOLDER, "readOnly": True})
    node = f"rabbit@$(POD_NAME).{names.RABBITMQ_NODES}.{namespace}.svc.cluster.local"
    container: Manifest = {
        "name": "rabbitmq",
        "image": settings.image,
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "RABBITMQ_USE_LONGNAME", "value": "true"},
            {"name": "RABBITMQ_NODENAME", "value": node},
            {"name": "RABBITMQ_LOGS", "value": "-"},
        ],
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        "securityContext": dict(CONTAINER_SECURITY),
        "resources": resources(settings.cpu, settings.memory),
        "volumeMounts": mounts,
        # By TCP: a check by command starts an Erlang VM each time, which costs more than the broker's own idling. No
        # liveness: what a restart could heal the VM's own supervisors heal, and it would cut a node off while it syncs.
        # The management API comes last when a node starts; later its trouble must not take AMQP out of the Service.
        "startupProbe": {"tcpSocket": {"port": "management"}, "periodSeconds": 2, "failureThreshold": 300},
        "readinessProbe": {"tcpSocket": {"port": "amqp"}, "periodSeconds": 5, "failureThreshold": 3},
    }
    if settings.replicas > 1:
        # Within the grace period, since it waits in vain when all nodes stop. Alone a node has no majority to leave to.
        wait = settings.grace_seconds * 2 // 3
        stop = f"rabbitmq-upgrade await_online_quorum_plus_one -t {wait} || true"
        container["lifecycle"] = {"preStop": {"exec": {"command": ["sh", "-c", stop]}}}
    return container

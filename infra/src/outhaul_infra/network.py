"""Who may connect to whom in the data's namespace, where this stack makes the pods.

Operators' pods are theirs: policies that keep them from their own pods would break them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from outhaul_infra import names
from outhaul_infra.manifests import Manifest, labels, metadata
from outhaul_infra.postgres_manifests import PORT
from outhaul_infra.rabbitmq_manifests import PROMETHEUS_PORT, amqp_port, management_port
from outhaul_infra.settings import StackSettings

# Policies match after address translation: the name service is met at its pods' own port.
DNS_PORTS: Final = (53, 5353)
_BETWEEN_NODES: Final = (4369, 25672)
# The chart's pods and the operator's Jobs, by their component.
_ASK_THE_MANAGEMENT_API: Final = ("operator", "topology")
_SPEAK_AMQP: Final = ("order", "waybill", "operator", "resend", "redrive", "topology")
_SPEAK_SQL: Final = ("order", "waybill", "operator", "resend", "redrive", "schema-order", "schema-waybill")


def rabbitmq_policy(settings: StackSettings) -> Manifest:
    """AMQP and management for the parts that use them, management for KEDA, and the nodes among themselves."""
    tls, app = settings.tls.enabled, settings.namespaces.app
    nodes = {"podSelector": {"matchLabels": labels(names.RABBITMQ)}}
    ingress = [
        _rule("from", [_parts(app, _SPEAK_AMQP)], amqp_port(tls=tls)),
        _rule("from", [_parts(app, _ASK_THE_MANAGEMENT_API)], management_port(tls=tls)),
        _rule("from", [nodes], *_BETWEEN_NODES),
    ]
    if settings.keda.enabled:
        ingress.append(_rule("from", [_namespace(settings.keda.namespace)], management_port(tls=tls)))
    if settings.namespaces.monitoring is not None:
        ingress.append(_rule("from", [_namespace(settings.namespaces.monitoring)], PROMETHEUS_PORT))
    dns = [{"protocol": protocol, "port": port} for port in DNS_PORTS for protocol in ("UDP", "TCP")]
    return _policy(
        names.RABBITMQ,
        settings.namespaces.data,
        ingress,
        egress=[_rule("to", [nodes], *_BETWEEN_NODES), {"ports": dns}],
    )


def postgres_policy(settings: StackSettings) -> Manifest:
    """SQL for the parts that use it; the server itself calls nobody."""
    return _policy(
        names.POSTGRES,
        settings.namespaces.data,
        [_rule("from", [_parts(settings.namespaces.app, _SPEAK_SQL)], PORT)],
        egress=[],
    )


def server_peer(settings: StackSettings, pods: Mapping[str, str]) -> dict[str, Any]:
    """Pods of a server of ours, for the policies of those who call it."""
    return _namespace(settings.namespaces.data) | {"podSelector": {"matchLabels": dict(pods)}}


def _parts(namespace: str, components: Sequence[str]) -> dict[str, Any]:
    chosen = {"key": "app.kubernetes.io/component", "operator": "In", "values": list(components)}
    selector = {"matchLabels": {names.LABEL_NAME: "outhaul"}, "matchExpressions": [chosen]}
    return _namespace(namespace) | {"podSelector": selector}


def _namespace(name: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _rule(direction: str, peers: list[dict[str, Any]], *ports: int) -> dict[str, Any]:
    return {direction: peers, "ports": [{"protocol": "TCP", "port": port} for port in ports]}


def _policy(part: str, namespace: str, ingress: list[dict[str, Any]], *, egress: list[dict[str, Any]]) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(part, namespace),
        "spec": {
            "podSelector": {"matchLabels": labels(part)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        },
    }

"""What the stack tells Outhaul's chart (helm/outhaul/values.yaml); what is not here keeps the chart's default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from outhaul_infra.names import LABEL_NAME, POSTGRES, RABBITMQ, database, operator_role
from outhaul_infra.network import server_peer
from outhaul_infra.rabbitmq_manifests import amqp_port, management_port
from outhaul_infra.settings import CLOUDNATIVE_PG, EXTERNAL, StackSettings

_CLOUDNATIVE_PG_LABEL: Final = "cnpg.io/cluster"
_FALLBACK_REPLICAS: Final = 2


def chart_values(settings: StackSettings, *, authority_secret: str | None, credentials: str) -> dict[str, Any]:
    """The values, those of the setting `chart.values` on top. ``credentials`` changes when a password does.

    Nothing is left to what the cluster is found to have, or a preview away from it would show another plan.
    """
    images, keda, order = settings.images, settings.keda, settings.order
    values: dict[str, Any] = {
        "crds": {"install": True, "keep": settings.chart.keep_crds},
        "images": {
            "registry": images.registry or "",
            "pullPolicy": images.pull_policy,
            **{name: {"tag": images.tag} for name in ("order", "waybill", "operator")},
        },
        "functions": {
            "order": {
                "replicas": order.replicas,
                "databasePoolSize": order.pool_size,
                "autoscaling": {
                    "enabled": order.max_replicas is not None,
                    "minReplicas": order.replicas,
                    "maxReplicas": order.max_replicas or order.replicas,
                },
            },
            "waybill": {"replicas": settings.waybill.max_replicas, "databasePoolSize": settings.waybill.pool_size},
        },
        "schema": {
            name: {"functionRole": database(name), "operatorRole": operator_role(name)} for name in ("order", "waybill")
        },
        "topology": {"nodes": settings.rabbitmq.replicas if settings.rabbitmq.mode != EXTERNAL else 1},
        "keda": {
            "enabled": keda.enabled,
            "virtualHost": settings.rabbitmq.virtual_host,
            "minReplicas": settings.waybill.min_replicas,
            "maxReplicas": settings.waybill.max_replicas,
            "fallbackReplicas": min(_FALLBACK_REPLICAS, settings.waybill.max_replicas),
            "caSecret": authority_secret or "" if keda.enabled else "",
        },
        "monitoring": {name: {"enabled": settings.chart.monitors} for name in ("podMonitor", "prometheusRule")},
        # Nobody here runs `helm test`.
        "tests": {"enabled": False},
        # Pods take URLs from Secrets at their start alone.
        "podAnnotations": {"outhaul.dev/credentials": credentials},
        "networkPolicies": _network(settings),
    }
    if authority_secret is not None:
        authority = {"caSecret": {"name": authority_secret}}
        values["tls"] = {"broker": authority, "database": authority}
    return merged(values, settings.chart.values)


def _network(settings: StackSettings) -> dict[str, Any]:
    tls = settings.tls.enabled
    broker: dict[str, Any] = {"ports": [amqp_port(tls=tls)], "managementPorts": [management_port(tls=tls)]}
    server: dict[str, Any] = {}
    if settings.rabbitmq.mode == EXTERNAL:
        address = settings.rabbitmq.management_url or ""
        managed_at = address.partition("://")[2].partition("/")[0].partition(":")[2]
        managed = int(managed_at) if managed_at.isdigit() else (443 if address.startswith("https") else 80)
        broker = {"ports": [settings.rabbitmq.port or amqp_port(tls=tls)], "managementPorts": [managed]}
    else:
        broker["peers"] = [server_peer(settings, {LABEL_NAME: RABBITMQ})]
    if settings.postgres.mode == EXTERNAL:
        server["ports"] = [settings.postgres.port or 5432]
    else:
        by_operator = settings.postgres.mode == CLOUDNATIVE_PG
        server["peers"] = [server_peer(settings, {_CLOUDNATIVE_PG_LABEL if by_operator else LABEL_NAME: POSTGRES})]
    return {"broker": broker, "database": server}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """As helm merges values: mappings key by key, all else replaced."""
    result = dict(below)
    for key, value in above.items():
        mine = result.get(key)
        result[key] = merged(mine, value) if isinstance(mine, Mapping) and isinstance(value, Mapping) else value
    return result

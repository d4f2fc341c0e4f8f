"""What a person needs next, as the stack's outputs: commands that work as they stand."""

from __future__ import annotations

from outhaul_infra import names
from outhaul_infra.rabbitmq_manifests import management_port
from outhaul_infra.settings import EXTERNAL, StackSettings


def outputs(settings: StackSettings) -> dict[str, str]:
    """Name to command; nothing secret."""
    kubectl = "kubectl"
    if settings.cluster.kubeconfig is not None:
        kubectl += f" --kubeconfig {settings.cluster.kubeconfig}"
    if settings.cluster.context is not None:
        kubectl += f" --context {settings.cluster.context}"
    app, data = settings.namespaces.app, settings.namespaces.data
    told = {
        "isAllWell": f"{kubectl} --namespace {app} get outboxes,inboxes",
        "orders": f"{kubectl} --namespace {app} port-forward service/{names.RELEASE}-order 8080",
        "waybills": f"{kubectl} --namespace {app} port-forward service/{names.RELEASE}-waybill 8081",
    }
    if settings.keda.enabled and settings.waybill.min_replicas == 0:
        told["waybills"] += "  # while nothing waits in the queue there is no pod to forward to: place an order first"
    if settings.rabbitmq.mode != EXTERNAL:
        port = management_port(tls=settings.tls.enabled)
        told |= {
            "brokerPage": f"{kubectl} --namespace {data} port-forward service/{names.RABBITMQ} {port}",
            "brokerPassword": (
                f"{kubectl} --namespace {data} get secret {names.RABBITMQ_ADMIN}"
                " --output jsonpath={.data.password} | base64 --decode"
            ),
        }
    if settings.postgres.mode == "statefulset":
        told["databaseShell"] = (
            f"{kubectl} --namespace {data} exec -it statefulset/{names.POSTGRES} --container postgres"
            " -- psql --username postgres"
        )
    return told

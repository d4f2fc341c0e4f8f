"""KEDA by its own chart, where `keda.install` asks for it. A cluster bears one: it serves the external metrics API."""

from __future__ import annotations

import pulumi
from pulumi_kubernetes.helm.v4 import Chart, RepositoryOptsArgs

from outhaul_infra.namespaces import namespace
from outhaul_infra.registering import register
from outhaul_infra.stack import Stack


class Keda(pulumi.ComponentResource):
    """Namespace and chart."""

    def __init__(self, name: str, stack: Stack, *, opts: pulumi.ResourceOptions) -> None:
        super().__init__("outhaul:infra:Keda", name, None, opts)
        settings = stack.settings.keda
        space = register(namespace(settings.namespace), stack.options(self), name="namespace-keda")
        self.chart = Chart(
            "keda",
            chart=settings.chart,
            version=settings.version,
            namespace=settings.namespace,
            repository_opts=None if _is_path(settings.chart) else RepositoryOptsArgs(repo=settings.repository),
            opts=stack.options(self, space),
        )
        self.register_outputs({"namespace": settings.namespace})


def _is_path(chart: str) -> bool:
    return "/" in chart or chart.endswith(".tgz")

"""Outhaul itself: its chart, then the Outbox and Inbox, which need the definitions the chart brings."""

from __future__ import annotations

from pathlib import Path

import pulumi
from pulumi_kubernetes.helm.v4 import Chart

from outhaul_infra import names
from outhaul_infra.chart_values import chart_values
from outhaul_infra.credentials import INBOX_DATABASE, OPERATOR_BROKER, OUTBOX_DATABASE
from outhaul_infra.manifests import Manifest, metadata
from outhaul_infra.registering import register
from outhaul_infra.stack import Stack

_API_VERSION = "outhaul.dev/v1alpha1"
_QUEUE = "outhaul.waybill"
_CONSUMER = "outhaul.waybill"


class Application(pulumi.ComponentResource):
    """Chart and custom resources; both resources are awaited until they say that all is well."""

    def __init__(
        self,
        name: str,
        stack: Stack,
        *,
        root: Path,
        authority_secret: str | None,
        credentials: str,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("outhaul:infra:Application", name, None, opts)
        self.chart = outhaul_chart(
            stack, root=root, authority_secret=authority_secret, credentials=credentials, opts=stack.options(self)
        )
        for resource in (outbox(stack.app), inbox(stack.app)):
            register(resource, stack.options(self, self.chart))
        self.register_outputs({"namespace": stack.app})


def outhaul_chart(
    stack: Stack, *, root: Path, authority_secret: str | None, credentials: str, opts: pulumi.ResourceOptions
) -> Chart:
    """The chart; the definitions that `chart.keepCrds` left are found again."""
    return Chart(
        names.RELEASE,  # and so the release's name
        chart=str(root / stack.settings.chart.path),
        namespace=stack.app,
        values=chart_values(stack.settings, authority_secret=authority_secret, credentials=credentials),
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(provider=stack.finding)),
    )


def outbox(namespace: str) -> Manifest:
    """The order function's outbox."""
    return _resource("Outbox", "orders", namespace, {"databaseSecretRef": {"name": OUTBOX_DATABASE}})


def inbox(namespace: str) -> Manifest:
    """The waybill function's inbox."""
    return _resource(
        "Inbox",
        "waybills",
        namespace,
        {"databaseSecretRef": {"name": INBOX_DATABASE}, "consumer": _CONSUMER, "queue": _QUEUE},
    )


def _resource(kind: str, name: str, namespace: str, spec: dict[str, object]) -> Manifest:
    described = metadata(name, namespace, part=names.RELEASE)
    described["annotations"] = {"pulumi.com/waitFor": "condition=Ready"}
    everywhere = {
        "brokerSecretRef": {"name": OPERATOR_BROKER},
        "topologyRef": {"name": f"{names.RELEASE}-topology"},
    }
    return {"apiVersion": _API_VERSION, "kind": kind, "metadata": described, "spec": everywhere | spec}

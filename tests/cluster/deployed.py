"""The whole stack on the cluster under test, brought up in one of two ways that do the same."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import yaml

from cluster.in_cluster import Servers
from cluster.kube import Kube, KubectlFailed
from cluster.operators import CHART, helm
from cluster.pulumi_project import STACK, PulumiProject
from cluster.pulumi_stage import PulumiStage
from infra_graph import ROOT
from support import poll

_RESOURCES = {"Outbox", "Inbox"}


class Way(Protocol):
    """How the stack comes and goes. ``written`` are its settings; its namespaces are ``app`` and ``data``."""

    app: str
    data: str

    def up(self, written: Mapping[str, Any]) -> None:
        """As these settings say, until all is ready."""

    def down(self) -> None:
        """Take it away."""


@dataclass
class Applied:
    """What the program registers, applied as the provider would: in order, server-side, the chart by helm."""

    kube: Kube
    stage: PulumiStage = field(init=False)

    def __post_init__(self) -> None:
        self.stage = PulumiStage(self.kube, {})
        self.app, self.data = self.stage.app, self.stage.data

    def up(self, written: Mapping[str, Any]) -> None:
        """As these settings say, until all is ready."""
        self.stage.written = dict(written)
        self.stage.up()
        self.stage.ready()
        planned = self.stage.graph.resource("outhaul").inputs
        assert planned["chart"] == str(ROOT / "helm/outhaul")
        helm(
            "upgrade",
            "--install",
            "outhaul",
            str(CHART),
            f"--namespace={self.app}",
            "--wait",
            "--wait-for-jobs",
            "--timeout=170s",
            "--values=-",
            stdin=yaml.safe_dump(planned["values"]),
        )
        self.kube.apply(*(each for each in self.stage.graph.objects() if each["kind"] in _RESOURCES))

    def down(self) -> None:
        """In the reverse order."""
        objects = self.stage.graph.objects()
        for kind in sorted(_RESOURCES):
            self.kube.kubectl("delete", kind, "--all", "--namespace", self.app)
        helm("uninstall", "outhaul", "--namespace", self.app, "--wait")
        left = [each for each in objects if each["kind"] not in _RESOURCES]
        self.kube.kubectl(
            "delete", "--ignore-not-found", "--filename=-", stdin=yaml.safe_dump_all(reversed(left)), seconds=300
        )


@dataclass
class ByPulumi:
    """`pulumi up` and `pulumi destroy`. ``run`` makes the namespaces' names its own."""

    folder: Path
    run: str
    project: PulumiProject | None = None

    def __post_init__(self) -> None:
        self.app, self.data = f"infra-app-{self.run}", f"infra-data-{self.run}"

    def up(self, written: Mapping[str, Any]) -> None:
        """As these settings say, until all is ready."""
        settings = dict(written) | {"namespaces": {"app": self.app, "data": self.data}}
        if self.project is None:
            self.project = PulumiProject(self.folder)
            self.project.prepare(settings)
        else:
            self.project.write(settings)
        self.project.up()

    def down(self) -> None:
        """`pulumi destroy`."""
        assert self.project is not None
        self.project.pulumi("destroy", "--yes", "--skip-preview", "--stack", STACK)


@dataclass
class Deployed:
    """What stands there, however it came."""

    kube: Kube
    way: Way

    def secret(self, name: str) -> dict[str, str]:
        """The entries of a Secret of the functions' namespace."""
        found = self.kube.read("secrets", self.way.app, name)
        assert found is not None, f"no Secret {name}"
        return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}

    def url(self, secret: str, entry: str, ways: Servers) -> str:
        """A URL as the Secret has it, with the address by which this machine gets there."""
        parts = urlsplit(self.secret(secret)[entry])
        assert parts.hostname is not None
        assert parts.port is not None
        host, port = ways.way(parts.hostname.partition(".")[0], parts.port)
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{login}@{host}:{port}"))

    def in_broker(self, *command: str) -> str:
        """What a command prints in the first node's pod."""
        where = ("outhaul-rabbitmq-0", "--namespace", self.way.data, "--container", "rabbitmq")
        return self.kube.kubectl("exec", *where, "--", *command)

    def replicas(self, deployment: str) -> int:
        """How many pods it is to have."""
        found = self.kube.read("deployments", self.way.app, deployment)
        assert found is not None, f"no Deployment {deployment}"
        return int(found["spec"].get("replicas", 1))

    def pods(self, component: str) -> list[str]:
        """The running pods of a part of the chart, the names in order."""
        found = self.kube.all("pods", self.way.app, labels=f"app.kubernetes.io/component={component}")
        return sorted(each["metadata"]["name"] for each in found if "deletionTimestamp" not in each["metadata"])

    def all_is_well(self) -> bool:
        """Whether Outbox and Inbox say so."""
        conditions = [
            condition
            for plural in ("outboxes", "inboxes")
            for each in self.kube.all(plural, self.way.app)
            for condition in each.get("status", {}).get("conditions", ())
            if condition["type"] == "Ready"
        ]
        return [each["status"] for each in conditions] == ["True", "True"]


def free_of_definitions(kube: Kube) -> None:
    """Take away definitions that an earlier run left. Raises AssertionError when somebody has resources of them."""
    plurals = ("outboxes", "inboxes", "resends", "redrives")
    for plural in plurals:
        found = kube.path(f"/apis/outhaul.dev/v1alpha1/{plural}")
        left = [
            f"{each['metadata']['namespace']}/{each['metadata']['name']}" for each in (found or {}).get("items", ())
        ]
        assert not left, f"this run needs the definitions for itself, and these {plural} are there: {', '.join(left)}"
    kube.kubectl("delete", "crd", "--ignore-not-found", *(f"{plural}.outhaul.dev" for plural in plurals))


def definitions(kube: Kube) -> list[str]:
    """The definitions of ours that the cluster has."""
    found = kube.kubectl("get", "crds", "--output=name").split()
    return sorted(each for each in found if each.endswith(".outhaul.dev"))


def left_of(kube: Kube, *namespaces: str) -> list[str]:
    """What is still there of a stack that is gone: namespaces, volumes, and what is the whole cluster's."""
    found = [f"namespace/{name}" for name in namespaces if kube.path(f"/api/v1/namespaces/{name}") is not None]
    volumes = kube.path("/api/v1/persistentvolumes") or {"items": ()}
    found += [
        f"persistentvolume/{each['metadata']['name']}"
        for each in volumes["items"]
        if each["spec"].get("claimRef", {}).get("namespace") in namespaces
    ]
    kinds = "clusterroles,clusterrolebindings,validatingwebhookconfigurations,mutatingwebhookconfigurations,apiservices"
    ours = "app.kubernetes.io/part-of=outhaul"
    return found + kube.kubectl("get", kinds, f"--selector={ours}", "--output=name").split() + definitions(kube)


def gone(kube: Kube, *namespaces: str, seconds: float) -> None:
    """Until nothing is left. Raises AssertionError with what is."""
    left: list[str] = []

    def nothing() -> bool:
        left[:] = left_of(kube, *namespaces)
        return not left

    try:
        poll(nothing, seconds=seconds)
    except AssertionError as error:
        raise AssertionError(f"left behind: {', '.join(left)}") from error


def clear(kube: Kube, way: Way) -> None:
    """After a run that may have failed anywhere."""
    for kind in ("outbox", "inbox"):
        try:
            kube.kubectl("delete", kind, "--all", "--namespace", way.app)
        except KubectlFailed:
            continue
    subprocess.run(
        ["helm", "uninstall", "outhaul", "--namespace", way.app, "--ignore-not-found"], check=False, timeout=180
    )
    for name in (way.app, way.data):
        kube.delete_soon("namespace", name)

"""PostgreSQL 18 and RabbitMQ 4.3 in the cluster, for every scenario, and how the tests reach what runs there."""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
import subprocess
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from cluster.kube import Kube
from support import poll

POSTGRES, RABBITMQ = "docker.io/library/postgres:18", "docker.io/library/rabbitmq:4.3-management"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
_UID = 999  # both images' own
_POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": _UID,
    "runAsGroup": _UID,
    "fsGroup": _UID,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@dataclass(slots=True)
class Servers:
    """Both servers, and ways to them.

    ``direct``: this machine reaches cluster IPs, so that the same URLs hold inside and outside. Else the tests go
    through port-forwards, and pods get the Services' names.
    """

    kube: Kube
    namespace: str
    password: str = field(default_factory=lambda: secrets.token_hex(12))
    direct: bool = True
    _ways: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)
    _forwards: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self) -> None:
        """Both, until they are ready. Raises AssertionError."""
        self.kube.apply(
            namespace_manifest(self.namespace),
            *_postgres(self.password),
            *_rabbitmq(self.password),
            namespace=self.namespace,
        )
        for kind in ("postgres", "rabbitmq"):
            self.ready(kind)
        self.find_out("postgres", 5432)
        host, port = self.way("rabbitmq", 15672)
        overview = f"http://outhaul:{self.password}@{host}:{port}/api/overview"
        # Its port is open before its tables are there.
        poll(lambda: _says_ok(overview), seconds=30, what="an overview of the broker")

    def find_out(self, service: str, port: int) -> None:
        """Whether this machine reaches cluster IPs; a node learns of a Service's pods a little after they are ready."""
        address = self.cluster_ip(service), port
        try:
            self.direct = poll(lambda: accepts(address), seconds=30, what=f"{service}'s address")
        except AssertionError:
            self.direct = False

    def close(self) -> None:
        """End the port-forwards."""
        for process in self._forwards:
            process.kill()
            process.communicate()

    def ready(self, name: str, *, seconds: float = 180) -> None:
        """Until that StatefulSet's pod is ready."""

        def is_ready() -> bool:
            found = self.kube.read("statefulsets", self.namespace, name)
            return found is not None and found.get("status", {}).get("readyReplicas") == 1

        poll(is_ready, seconds=seconds, what=f"{name} in {self.namespace}")

    def scale(self, name: str, replicas: int) -> None:
        """Stop or start a server; its data stays."""
        self.kube.kubectl("scale", f"statefulset/{name}", f"--replicas={replicas}", "--namespace", self.namespace)
        if replicas:
            self.ready(name)
            return
        poll(
            lambda: self.kube.read("pods", self.namespace, f"{name}-0") is None, seconds=90, what=f"the end of {name}-0"
        )

    def cluster_ip(self, service: str) -> str:
        """The Service's address."""
        found = self.kube.read("services", self.namespace, service)
        assert found is not None, f"no Service {service}"
        return str(found["spec"]["clusterIP"])

    def way(self, service: str, port: int) -> tuple[str, int]:
        """Host and port by which this machine reaches it, once it does: a Service follows its pods a little late."""
        if self.direct:
            address = self.cluster_ip(service), port
            poll(lambda: accepts(address), seconds=90, what=f"a server at {service}:{port}")
            return address
        if (service, port) not in self._ways:
            self._ways[service, port] = self._forward(service, port)
        return self._ways[service, port]

    def inside(self, url: str) -> str:
        """The URL by which pods reach what this machine reaches by ``url``."""
        if self.direct:
            return url
        parts = urlsplit(url)
        for (service, port), (host, forwarded) in self._ways.items():
            if (parts.hostname, parts.port) == (host, forwarded):
                login = parts.netloc.rpartition("@")[0]
                inner = f"{service}.{self.namespace}.svc:{port}"
                return urlunsplit(parts._replace(netloc=f"{login}@{inner}" if login else inner))
        raise AssertionError(f"nothing is forwarded for {parts.hostname}:{parts.port}")

    def _forward(self, service: str, port: int) -> tuple[str, int]:
        command = ["kubectl", "port-forward", "--namespace", self.namespace, f"service/{service}", f":{port}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._forwards.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        assert found is not None, f"kubectl port-forward says: {line}"
        return "127.0.0.1", int(found[1])


def namespace_manifest(name: str) -> dict[str, Any]:
    """A namespace that refuses pods which are not restricted."""
    labels = {**RESTRICTED, "app.kubernetes.io/part-of": "outhaul-tests"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def _says_ok(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, timeout=10, trust_env=False).status_code == 200
    return False


def _postgres(password: str) -> list[dict[str, Any]]:
    # What is lost when the machine dies is of no use to anybody.
    quick = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "300"}
    container = {
        "name": "postgres",
        "image": POSTGRES,
        "args": ["postgres", *(word for name, value in quick.items() for word in ("-c", f"{name}={value}"))],
        "env": [{"name": "POSTGRES_PASSWORD", "value": password}],
        "ports": [{"containerPort": 5432}],
        # The server that runs the first script listens on its socket alone, so TCP tells the one from the other.
        "readinessProbe": _probe(5432),
        "volumeMounts": [{"name": "data", "mountPath": "/var/lib/postgresql"}],
    }
    return _stateful("postgres", container, {"postgres": 5432})


def _rabbitmq(password: str) -> list[dict[str, Any]]:
    settings = (
        "collect_statistics_interval = 500\nmanagement_agent.disable_metrics_collector = false\n"
        "vm_memory_high_watermark.absolute = 700MiB\ndisk_free_limit.absolute = 50MB\n"
    )
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "rabbitmq"},
        "data": {"30-tests.conf": settings},
    }
    container = {
        "name": "rabbitmq",
        "image": RABBITMQ,
        "env": [
            {"name": "RABBITMQ_DEFAULT_USER", "value": "outhaul"},
            {"name": "RABBITMQ_DEFAULT_PASS", "value": password},
        ],
        "ports": [{"containerPort": 5672}, {"containerPort": 15672}],
        # The management API comes last.
        "readinessProbe": _probe(15672),
        "volumeMounts": [
            {"name": "data", "mountPath": "/var/lib/rabbitmq"},
            {"name": "settings", "mountPath": "/etc/rabbitmq/conf.d/30-tests.conf", "subPath": "30-tests.conf"},
        ],
    }
    settings_volume = {"name": "settings", "configMap": {"name": "rabbitmq"}}
    return [config, *_stateful("rabbitmq", container, {"amqp": 5672, "management": 15672}, settings_volume)]


def _probe(port: int) -> dict[str, Any]:
    """Ready once it listens; a machine that does much else is no reason to take it out of its Service again."""
    return {"tcpSocket": {"port": port}, "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 30}


def _stateful(
    name: str, container: dict[str, Any], ports: dict[str, int], *volumes: dict[str, Any]
) -> list[dict[str, Any]]:
    """A Service and a StatefulSet of one pod, whose data outlives it."""
    labels = {"app": name}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": labels, "ports": [{"name": each, "port": port} for each, port in ports.items()]},
    }
    pod = {
        "securityContext": _POD_SECURITY,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 20,
        "containers": [{**container, "imagePullPolicy": "IfNotPresent", "securityContext": _SECURITY}],
        "volumes": list(volumes),
    }
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    stateful = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {
            "serviceName": name,
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
            "volumeClaimTemplates": [claim],
        },
    }
    return [service, stateful]


def accepts(address: tuple[str, int]) -> bool:
    """Whether a connection is taken there."""
    try:
        socket.create_connection(address, timeout=3).close()
    except OSError:
        return False
    return True

"""The cluster under test: kubectl as a person types it, and the API itself for what is asked again and again."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lightkube.config.client_adapter import Client, ConnectionParams
from lightkube.config.kubeconfig import KubeConfig

from support import poll

GROUPS = {
    "configmaps": "/api/v1",
    "events": "/api/v1",
    "namespaces": "/api/v1",
    "pods": "/api/v1",
    "secrets": "/api/v1",
    "services": "/api/v1",
    "deployments": "/apis/apps/v1",
    "statefulsets": "/apis/apps/v1",
    "jobs": "/apis/batch/v1",
    "outboxes": "/apis/outhaul.dev/v1alpha1",
    "inboxes": "/apis/outhaul.dev/v1alpha1",
    "resends": "/apis/outhaul.dev/v1alpha1",
    "redrives": "/apis/outhaul.dev/v1alpha1",
}
SECONDS = 120
_BUSY = re.compile(r"too many requests|TooManyRequests|etcdserver: request timed out|leader changed", re.IGNORECASE)
_PLAINLY_FOR_TESTS = re.compile(r"kind-.+|k3d-.+|minikube|.*test.*")


class KubectlFailed(AssertionError):
    """kubectl ended with an error. ``output`` is what it said."""

    def __init__(self, arguments: tuple[str, ...], output: str) -> None:
        super().__init__(f"kubectl {' '.join(arguments)}: {output}")
        self.output = output


def refusal(context: str, allowed: str | None) -> str | None:
    """Why tests must not touch the cluster of that context; None when they may."""
    if context == allowed or _PLAINLY_FOR_TESTS.fullmatch(context):
        return None
    return (
        f"the context {context!r} is not plainly for tests (kind-*, k3d-*, minikube, or a name with 'test' in it); "
        f"if it is, set OUTHAUL_TEST_CLUSTER={context}"
    )


class Kube:
    """A cluster by the current context of KUBECONFIG. Every call is bounded; a busy API server is asked again."""

    def __init__(self) -> None:
        self.config = KubeConfig.from_env()
        single = self.config.get()
        assert single is not None, "KUBECONFIG has no current context"
        self.context = single.context_name
        self._api = Client(single, ConnectionParams(trust_env=False))

    def close(self) -> None:
        """Give its connections back."""
        self._api.close()

    def kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = SECONDS) -> str:
        """What kubectl prints. Raises KubectlFailed."""
        answer: list[str] = []

        def done() -> bool:
            ended = subprocess.run(
                ["kubectl", *arguments],
                input=stdin,
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds,
                env=os.environ,
            )
            if ended.returncode and _BUSY.search(ended.stderr):
                return False
            if ended.returncode:
                raise KubectlFailed(arguments, ended.stderr.strip() or ended.stdout.strip())
            answer.append(ended.stdout)
            return True

        poll(done, seconds=seconds, what=f"kubectl {' '.join(arguments)}")
        return answer[0]

    def apply(self, *documents: Mapping[str, Any], namespace: str | None = None) -> None:
        """Apply as ``kubectl apply --server-side`` does. Raises KubectlFailed with the API server's words."""
        text = yaml.safe_dump_all(documents, sort_keys=False)
        where = ("--namespace", namespace) if namespace else ()
        self.kubectl("apply", "--server-side", "--force-conflicts", *where, "-f", "-", stdin=text)

    def apply_folder(self, folder: Path) -> None:
        """Apply every manifest in it."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(folder))

    def read(self, plural: str, namespace: str, name: str) -> dict[str, Any] | None:
        """An object as the API server has it, None when there is none."""
        return self.path(f"{GROUPS[plural]}/namespaces/{namespace}/{plural}/{name}")

    def all(self, plural: str, namespace: str, *, labels: str = "") -> list[dict[str, Any]]:
        """The objects of that kind there, such as have the labels (``key=value,...``)."""
        query = f"?labelSelector={labels}" if labels else ""
        found = self.path(f"{GROUPS[plural]}/namespaces/{namespace}/{plural}{query}")
        return [] if found is None else list(found["items"])

    def path(self, path: str) -> dict[str, Any] | None:
        """What a GET of that path answers, None for 404. Raises AssertionError for what lasts."""

        def asked() -> tuple[int, str] | None:
            answer = self._api.get(path)
            return None if answer.status_code in {429, 500, 503, 504} else (answer.status_code, answer.text)

        status, body = poll(asked, seconds=60, what=f"an answer to GET {path}") or (0, "")
        if status == 404:
            return None
        assert status == 200, f"GET {path}: {status} {body[:500]}"
        found: dict[str, Any] = json.loads(body)
        return found

    def evict(self, pod: str, namespace: str) -> bool:
        """Ask a pod to go, as a node does that is drained; False where a disruption budget forbids it.

        Raises AssertionError for another refusal.
        """
        metadata = {"name": pod, "namespace": namespace}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
        answer = self._api.post(f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction", json=body)
        allowed = answer.status_code == 201
        assert allowed or "disruption budget" in answer.text, f"{answer.status_code} {answer.text[:500]}"
        return allowed

    def delete_soon(self, kind: str, name: str, namespace: str | None = None) -> None:
        """Ask for it, and do not wait for the end of it."""
        where = ("--namespace", namespace) if namespace else ()
        self.kubectl("delete", kind, name, "--ignore-not-found", "--wait=false", *where)

    def table(self, kind: str, namespace: str) -> list[dict[str, str]]:
        """``kubectl get`` as a person sees it: a mapping of column to text for each row.

        Columns are cut where the headings stand, so a value with spaces stays whole.
        """
        lines = self.kubectl("get", kind, "--namespace", namespace).splitlines()
        if not lines:
            return []
        starts = [found.start() for found in re.finditer(r"(?<!\S)\S", re.sub(r"(?<=\S) (?=\S)", "_", lines[0]))]
        ends = [*starts[1:], None]
        names = [lines[0][start:end].strip() for start, end in zip(starts, ends, strict=True)]
        return [
            {name: line[start:end].strip() for name, start, end in zip(names, starts, ends, strict=True)}
            for line in lines[1:]
        ]

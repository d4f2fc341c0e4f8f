"""What a person would ask a namespace in which something went wrong."""

from __future__ import annotations

import contextlib
import subprocess

from cluster.kube import Kube, KubectlFailed

LINES_OF_A_LOG = 60


def of(kube: Kube, namespace: str) -> str:
    """Resources, what they tell of themselves, events and logs, as text."""
    parts = [
        _said(kube, "get", "outhaul,deployments,jobs,pods", "--namespace", namespace, "-o", "wide"),
        _said(kube, "get", "events", "--namespace", namespace, "--sort-by=.lastTimestamp"),
        _said(kube, "describe", "outhaul", "--namespace", namespace),
    ]
    for pod in kube.all("pods", namespace)[-12:]:
        name = pod["metadata"]["name"]
        waiting = [each.get("state", {}) for each in pod.get("status", {}).get("containerStatuses", [])]
        logs = _said(kube, "logs", name, "--namespace", namespace, "--all-containers", f"--tail={LINES_OF_A_LOG}")
        parts.append(f"--- {name}: {waiting}\n{logs}")
    return "\n\n".join(parts)


def _said(kube: Kube, *arguments: str) -> str:
    heading = f"$ kubectl {' '.join(arguments)}\n"
    with contextlib.suppress(KubectlFailed, AssertionError, subprocess.TimeoutExpired):
        return heading + kube.kubectl(*arguments, seconds=30)
    return heading + "(no answer)"

"""The Jobs' manifests: one fixed pod template, into which only names and validated values go. Pure.

A Job deletes itself only once its result is in its owner's status (its ttl is set then, not here), so that its name
cannot be made again, and its work done again, before the decision is known to be over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from outhaul_operator import outcomes, requests
from outhaul_operator.plan import JobRequest
from outhaul_operator.specs import API_VERSION, SecretRef, Target

OWNER_LABEL: Final = "outhaul.dev/owner-uid"
KIND_LABEL: Final = "outhaul.dev/owner-kind"
NAME_LABEL: Final = "outhaul.dev/owner-name"
MANAGED_BY: Final = {"app.kubernetes.io/managed-by": "outhaul-operator"}
CONTAINER: Final = "run"
FINISHED_TTL_SECONDS: Final = 3600
"""For how long a finished Job is kept for people to look at, once its result is in the status."""

_NAME_CHARACTERS = 63
_BACKOFF_LIMIT = 3
_RESOURCES = {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "256Mi"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """What the operator's own configuration says of every Job. ``environment`` holds no secrets.

    The authorities are certificates that Jobs trust, in Secrets of the namespace they run in. Secrets to pull the image
    with are the ServiceAccount's.
    """

    image: str
    service_account: str
    image_pull_policy: str = "IfNotPresent"
    environment: Mapping[str, str] = field(default_factory=dict)
    broker_authority: SecretRef | None = None
    database_authority: SecretRef | None = None


def job_name(kind: str, uid: str, generation: int, *suffixes: str) -> str:
    """One name for one decision: ``<kind>-<first 8 of the uid>-g<generation>[-suffix...]``.

    >>> job_name("outbox", "0a1b2c3d-4e5f-6789-abcd-ef0123456789", 3, "r2", "0")
    'outbox-0a1b2c3d-g3-r2-0'
    """
    name = "-".join((kind.lower(), uid.replace("-", "")[:8].lower(), f"g{generation}", *suffixes))
    if len(name) > _NAME_CHARACTERS:
        # Only absurd numbers make it so long; a cut name alone could be two decisions'.
        digest = hashlib.sha256(name.encode()).hexdigest()[:10]
        name = f"{name[: _NAME_CHARACTERS - 11].rstrip('-')}-{digest}"
    return name


def manifest(request: JobRequest, target: Target, settings: JobSettings) -> dict[str, Any]:
    """The Job as the API server takes it."""
    labels = {
        **MANAGED_BY,
        "app.kubernetes.io/name": "outhaul",
        "app.kubernetes.io/component": request.run.command,
        OWNER_LABEL: target.uid,
        KIND_LABEL: target.kind.lower(),
        NAME_LABEL: target.name[:_NAME_CHARACTERS].rstrip("-."),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": request.name,
            "namespace": target.namespace,
            "labels": labels,
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": target.kind,
                    "name": target.name,
                    "uid": target.uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {
            "backoffLimit": _BACKOFF_LIMIT,
            "activeDeadlineSeconds": request.deadline_seconds,
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {"metadata": {"labels": labels}, "spec": _pod(request, settings)},
        },
    }


def _failure_rules() -> list[dict[str, Any]]:
    """An eviction is nobody's failure; a hopeless exit code ends the Job at once. The first match counts."""
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": list(outcomes.HOPELESS)},
        },
    ]


def _pod(request: JobRequest, settings: JobSettings) -> dict[str, Any]:
    return {
        # podFailurePolicy takes no other.
        "restartPolicy": "Never",
        "serviceAccountName": settings.service_account,
        "automountServiceAccountToken": False,
        # A Service named outhaul-amqp would inject OUTHAUL_AMQP_PORT.
        "enableServiceLinks": False,
        # A resend ends what is in flight within its drain time.
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(request, settings)],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
            *({"name": name, "secret": {"secretName": ref.name}} for name, ref in _authorities(settings).items()),
        ],
    }


def _container(request: JobRequest, settings: JobSettings) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-P", "-m", "outhaul_operator.work", request.run.command],
        "env": _environment(request, settings),
        "resources": _RESOURCES,
        "terminationMessagePath": outcomes.TERMINATION_FILE,
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a mount point of the container's own
            *({"name": name, "mountPath": f"/etc/outhaul/{name}", "readOnly": True} for name in _authorities(settings)),
        ],
    }


def _authorities(settings: JobSettings) -> dict[str, SecretRef]:
    """The Secrets with certificates, by the folder they are mounted at."""
    given = {"broker-authority": settings.broker_authority, "database-authority": settings.database_authority}
    return {name: ref for name, ref in given.items() if ref is not None}


def _trust(settings: JobSettings) -> dict[str, str]:
    """By the variables of OpenSSL and libpq, which hold for every URL that says nothing else."""
    told = {}
    if settings.broker_authority is not None:
        told["SSL_CERT_FILE"] = f"/etc/outhaul/broker-authority/{settings.broker_authority.key}"
    if settings.database_authority is not None:
        told["PGSSLMODE"] = "verify-full"
        told["PGSSLROOTCERT"] = f"/etc/outhaul/database-authority/{settings.database_authority.key}"
    return told


def _environment(request: JobRequest, settings: JobSettings) -> list[dict[str, Any]]:
    plain = {
        **settings.environment,
        **_trust(settings),
        requests.RUN_ID_VARIABLE: request.name,
        requests.ACTOR_VARIABLE: request.actor,
        requests.REQUEST_VARIABLE: json.dumps(request.run.document(), sort_keys=True, separators=(",", ":")),
    }
    # Kubernetes expands $(NAME) in a value; a person's text must arrive as it was written.
    values = [{"name": name, "value": value.replace("$(", "$$(")} for name, value in plain.items()]
    return [
        *values,
        _secret(requests.DATABASE_VARIABLE, request.database.name, request.database.key),
        _secret(requests.BROKER_VARIABLE, request.broker.name, request.broker.key),
    ]


def _secret(variable: str, name: str, key: str) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}

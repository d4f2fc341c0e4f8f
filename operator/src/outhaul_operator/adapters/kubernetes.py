"""The API server by lightkube: exactly the requests that `outhaul_operator.adapters.permissions` lists.

Reads say what is missing as a Trouble; an API server that is away or overloaded raises ApiUnavailable, since nothing
can be concluded then. A status is replaced only at the resourceVersion it was planned from. lightkube reads a service
account's token again when the API server refuses the old one, so a rotated token needs nothing here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
from lightkube import AsyncClient, KubeConfig
from lightkube.core.exceptions import ConfigError
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.core_v1 import EventSource, ObjectReference
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import ConfigMap, Event, Pod, Secret
from lightkube.types import PatchType

from outhaul.errors import ConfigurationError, OuthaulError
from outhaul_operator.adapters.api_calls import ApiCalls, ApiRefused, ApiUnavailable
from outhaul_operator.adapters.api_trust import context_for
from outhaul_operator.adapters.job_views import job_views
from outhaul_operator.jobs import MANAGED_BY, OWNER_LABEL
from outhaul_operator.metrics import OperatorMetrics
from outhaul_operator.plan import EventNote
from outhaul_operator.ports import Refused
from outhaul_operator.snapshot import JobView, Trouble
from outhaul_operator.specs import ALLOW_LABEL, API_VERSION, GROUP, VERSION, Target

COMPONENT: Final = "outhaul-operator"
_KINDS: Final = {
    kind: create_namespaced_resource(GROUP, VERSION, kind, plural)
    for kind, plural in (
        ("Outbox", "outboxes"),
        ("Inbox", "inboxes"),
        ("Resend", "resends"),
        ("Redrive", "redrives"),
    )
}
ALL_NAMESPACES: Final = "*"
# By default a connection is closed after 5 idle seconds, and a new one's handshake costs more than a request does; each
# one kept costs a little at every request, too.
_CONNECTIONS: Final = httpx2.Limits(max_connections=64, max_keepalive_connections=8, keepalive_expiry=60.0)
_EVENT_MESSAGE_CHARACTERS = 1024
_log = logging.getLogger(__name__)


class KubernetesCluster:
    """`outhaul_operator.ports.Cluster` by the service account of the pod, or else by ``KUBECONFIG``.

    Raises ConfigurationError where there is neither.
    """

    def __init__(self, *, timeout_seconds: float, metrics: OperatorMetrics) -> None:
        try:
            config = KubeConfig.from_env().get()
        except (ConfigError, OSError) as error:
            raise ConfigurationError(
                "KUBECONFIG",
                os.environ.get("KUBECONFIG", ""),
                f"no way to the API server: {error}; run in a pod, or name a kubeconfig file",
            ) from error
        if config is None or config.user is None:
            raise ConfigurationError("KUBECONFIG", "", "it has no current context with a user; choose one in it")
        # No proxy of the environment: the API server stands in the cluster, and kopf takes none either.
        self._client = AsyncClient(
            config,
            timeout=httpx2.Timeout(timeout_seconds),
            field_manager=COMPONENT,
            trust_env=False,
            transport=httpx2.AsyncHTTPTransport(
                verify=context_for(config, config.user), trust_env=False, limits=_CONNECTIONS
            ),
        )
        self.address = urlsplit(str(config.cluster.server)).netloc
        self._api = ApiCalls(self.address, timeout_seconds, metrics)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def check(self, namespaces: Sequence[str]) -> None:
        """Whether the resources can be watched there; no namespaces: in the whole cluster.

        Where some of the namespaces cannot be, perhaps because they are not there, the others are looked after all the
        same: that is logged, and whoever watches tries them again.

        Raises OuthaulError that says what is missing, ApiUnavailable where only waiting helps.
        """
        places = namespaces or (ALL_NAMESPACES,)
        refusals = [why for place in places if (why := await self._refusal(place)) is not None]
        if len(refusals) == len(places):
            raise OuthaulError(refusals[0])
        for why in refusals:
            _log.warning("a namespace is left out until it can be watched: %s", why)

    async def secret(self, namespace: str, name: str) -> Mapping[str, str] | Trouble:
        """The entries of a Secret that carries the label; else a Trouble that says which is missing."""
        try:
            found = await self._api.ask(self._client.get(Secret, name, namespace=namespace))
        except ApiRefused as error:
            return _missing(error, "Secret", namespace, name)
        labels = (found.metadata.labels if found.metadata else None) or {}
        if labels.get(ALLOW_LABEL) != "true":
            return Trouble(
                "SecretNotAllowed",
                f'Secret {name} does not carry the label {ALLOW_LABEL}: "true", without which it is not used; '
                f"kubectl label secret {name} -n {namespace} {ALLOW_LABEL}=true",
            )
        return _decoded(found.data or {})

    async def config_map(self, namespace: str, name: str) -> Mapping[str, str] | Trouble:
        """The entries of a ConfigMap."""
        try:
            found = await self._api.ask(self._client.get(ConfigMap, name, namespace=namespace))
        except ApiRefused as error:
            return _missing(error, "ConfigMap", namespace, name)
        return found.data or {}

    async def body(self, kind: str, namespace: str, name: str) -> Mapping[str, Any] | Trouble | None:
        """One of the custom resources as it is now; None when there is none of that name."""
        try:
            found: Mapping[str, Any] = await self._api.ask(self._client.get(_KINDS[kind], name, namespace=namespace))
        except ApiRefused as error:
            return None if error.code == 404 else _missing(error, kind, namespace, name)
        return found

    async def jobs_of(self, target: Target) -> tuple[JobView, ...] | Trouble:
        """The object's Jobs and what their pods say, as the API server has them now."""
        labels: Any = {**MANAGED_BY, OWNER_LABEL: target.uid}
        try:
            jobs = await self._api.ask(self._all(Job, target.namespace, labels))
            pods = await self._api.ask(self._all(Pod, target.namespace, labels)) if jobs else []
        except ApiRefused as error:
            return _forbidden(error, "list Jobs and their pods", target.namespace)
        return job_views(jobs, pods, datetime.now(UTC))

    async def write_status(self, target: Target, status: Mapping[str, Any]) -> str | Refused:
        """Replace the status if the object is still at ``target.resource_version``; the new resourceVersion."""
        resource: Any = _KINDS[target.kind].Status
        written = resource(
            apiVersion=API_VERSION,
            kind=target.kind,
            metadata={
                "name": target.name,
                "namespace": target.namespace,
                "uid": target.uid,
                "resourceVersion": target.resource_version,
            },
            status=dict(status),
        )
        try:
            answer = await self._api.ask(self._client.replace(written, target.name, namespace=target.namespace))
        except ApiRefused as error:
            if error.code in {404, 409}:
                return Refused(Trouble("Conflict", f"{target} was changed or deleted meanwhile"), conflict=True)
            return Refused(_forbidden(error, f"update the status of {target}", target.namespace))
        return str(answer["metadata"]["resourceVersion"])

    async def create_job(self, target: Target, manifest: Mapping[str, Any]) -> Refused | None:
        """Create a Job of the object; one of the object's that exists already by that name is fine."""
        name = str(manifest["metadata"]["name"])
        job: Any = Job.from_dict(dict(manifest))
        try:
            await self._api.ask(self._client.create(job))
        except ApiRefused as error:
            if error.reason == "AlreadyExists":
                return await self._unless_owned(target, name)
            return Refused(Trouble("JobRefused", f"the API server did not take the Job {name}: {error.message}"))
        return None

    async def set_ttl(self, target: Target, job: str, seconds: int) -> Refused | None:
        """Let a finished Job be deleted after so long; one that is gone is fine."""
        change = {"spec": {"ttlSecondsAfterFinished": seconds}}
        try:
            await self._api.ask(
                self._client.patch(Job, job, change, namespace=target.namespace, patch_type=PatchType.MERGE)
            )
        except ApiRefused as error:
            if error.code != 404:
                return Refused(_forbidden(error, f"patch the Job {job}", target.namespace))
        return None

    async def event(self, target: Target, note: EventNote) -> None:
        """Tell an event, or count one more of the same; one that cannot be told is logged and dropped."""
        message = note.message[:_EVENT_MESSAGE_CHARACTERS]
        same = hashlib.sha256(f"{target.uid}\n{note.type}\n{note.reason}\n{message}".encode()).hexdigest()[:16]
        name = f"{target.name[:200]}.{same}"
        try:
            try:
                await self._api.ask(self._client.create(_event(target, note, name, message)))
            except ApiRefused as error:
                if error.reason != "AlreadyExists":
                    raise
                await self._count_event(target.namespace, name)
        except (ApiRefused, ApiUnavailable) as error:
            _log.warning("an event could not be told: %s", error, extra={"object": str(target), "reason": note.reason})

    async def _refusal(self, namespace: str) -> str | None:
        for kind, resource in (*_KINDS.items(), ("Job", Job)):
            try:
                await self._api.ask(self._first(resource, namespace))
            except ApiRefused as error:
                return _unprepared(error, kind, namespace)
        return None

    async def _first(self, resource: Any, namespace: str) -> Any:
        async for each in self._client.list(resource, namespace=namespace, chunk_size=1):
            return each
        return None

    async def _all(self, resource: Any, namespace: str, labels: Any) -> list[Any]:
        return [each async for each in self._client.list(resource, namespace=namespace, labels=labels)]

    async def _unless_owned(self, target: Target, name: str) -> Refused | None:
        jobs = await self.jobs_of(target)
        if isinstance(jobs, Trouble) or any(job.name == name for job in jobs):
            return None
        return Refused(
            Trouble(
                "JobNameTaken",
                f"a Job named {name} exists and is none of {target}; delete it: kubectl delete job {name} "
                f"-n {target.namespace}",
            )
        )

    async def _count_event(self, namespace: str, name: str) -> None:
        """One more of an event. Two that count at once may count one."""
        known = await self._api.ask(self._client.get(Event, name, namespace=namespace))
        change = {"count": (known.count or 1) + 1, "lastTimestamp": _instant(datetime.now(UTC))}
        await self._api.ask(self._client.patch(Event, name, change, namespace=namespace, patch_type=PatchType.MERGE))


def _unprepared(error: ApiRefused, kind: str, namespace: str) -> str:
    if error.code == 404:
        return (
            f"the resource definitions of {API_VERSION} ({kind}) are not installed; install the chart with "
            "crds.install, or kubectl apply --server-side -f helm/outhaul/files/crds/"
        )
    if error.code == 403:
        where = "the whole cluster" if namespace == ALL_NAMESPACES else f"namespace {namespace}"
        return (
            f"the operator may not list {kind} objects in {where}; give it the Role of the chart there, or name its "
            f"namespaces in OUTHAUL_OPERATOR_NAMESPACES ({error.message})"
        )
    return f"the API server refused to list {kind} objects: {error}"


def _event(target: Target, note: EventNote, name: str, message: str) -> Event:
    now = datetime.now(UTC)
    return Event(
        metadata=ObjectMeta(name=name, namespace=target.namespace),
        involvedObject=ObjectReference(
            apiVersion=API_VERSION,
            kind=target.kind,
            namespace=target.namespace,
            name=target.name,
            uid=target.uid,
            resourceVersion=target.resource_version,
        ),
        type=note.type,
        reason=note.reason,
        message=message,
        source=EventSource(component=COMPONENT),
        reportingComponent=COMPONENT,
        firstTimestamp=now,
        lastTimestamp=now,
        count=1,
    )


def _instant(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _decoded(data: Mapping[str, str]) -> dict[str, str]:
    """A Secret's entries as text; what is no text is no URL, and is left out."""
    entries = {}
    for name, value in data.items():
        try:
            entries[name] = base64.b64decode(value).decode().strip()
        except (binascii.Error, UnicodeDecodeError):
            continue
    return entries


def _missing(error: ApiRefused, what: str, namespace: str, name: str) -> Trouble:
    if error.code == 404:
        return Trouble(f"{what}Missing", f"there is no {what} {name} in namespace {namespace}; create it")
    return _forbidden(error, f"get the {what} {name}", namespace)


def _forbidden(error: ApiRefused, doing: str, namespace: str) -> Trouble:
    if error.code == 403:
        return Trouble(
            "Forbidden",
            f"the operator may not {doing} in namespace {namespace}; give it the Role of the chart there",
        )
    return Trouble("ApiRefused", f"the API server refused to {doing}: {error}")

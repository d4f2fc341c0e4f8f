"""What kopf is for: telling the loop which objects there are. Nothing here writes to any of them.

Only event handlers: kopf's timers, daemons and deletion handlers would put a finalizer onto users' objects, and its
creation and update handlers annotations.

kopf ends by cancelling every task that began after it, looks included, and takes the signals for itself. So its tasks
are made and run apart: whoever starts it takes the signals back, and stops the loop first.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import kopf

from outhaul.errors import OuthaulError
from outhaul_operator.adapters.api_trust import as_kubectl_does
from outhaul_operator.jobs import MANAGED_BY, OWNER_LABEL
from outhaul_operator.looking import Looking
from outhaul_operator.loop import LookLoop
from outhaul_operator.specs import API_VERSION, GROUP, VERSION

PLURALS: Final = ("outboxes", "inboxes", "resends", "redrives")
_IDENTITY: Any = "outhaul-operator"
_STOP_SECONDS: Final = 1.0
_IN_CLUSTER: Final = "https://{host}:{port}"


@dataclass(frozen=True, slots=True)
class Memo:
    """What the handlers hand on to."""

    loop: LookLoop
    looking: Looking


class _ForEver:
    """Backoffs that do not run out: an API server that is away for long must not end the process."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1, 2, 3, 5, 8)
        while True:
            yield 10


class Watching:
    """Watches these namespaces, or with none named the whole cluster."""

    def __init__(self, memo: Memo, *, namespaces: tuple[str, ...], timeout_seconds: float) -> None:
        self._memo = memo
        self._namespaces = namespaces
        self._timeout_seconds = timeout_seconds
        self._stop = asyncio.Event()
        self._begun = asyncio.Event()
        self._roots: Collection[asyncio.Task[Any]] = ()
        self._task: asyncio.Task[None] | None = None

    @property
    def started(self) -> bool:
        """Whether it has begun, and not ended."""
        return self._task is not None and not any(task.done() for task in self._roots)

    async def start(self) -> None:
        """Begin to watch. kopf has taken the process's signals when this returns."""
        existing = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=make_registry(),
            settings=make_settings(timeout_seconds=self._timeout_seconds),
            memo=self._memo,
            standalone=True,
            # Else kopf asks for the user's name, and a pod's uid has none.
            identity=_IDENTITY,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=self._stop,
        )
        self._roots = tasks
        self._task = asyncio.create_task(kopf.run_tasks(tasks, ignored=existing), name="kopf")
        self._begun.set()

    async def ended(self) -> None:
        """Until kopf ends by itself. Raises OuthaulError that says why.

        To be waited for from before `start`: kopf cancels what began after it, and with that whoever would tell.
        """
        await self._begun.wait()
        # Not for what kopf runs as a whole, which waits for tasks that are none of its own to end.
        ended, _ = await asyncio.wait(self._roots, return_when=asyncio.FIRST_COMPLETED)
        # kopf has told of its watchers that failed, and leaves them for asyncio to tell of at the end once more.
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        for task in ended:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise OuthaulError(f"watching the custom resources failed: {error}") from error
        raise OuthaulError("watching the custom resources ended by itself")

    async def stop(self) -> None:
        """Stop watching; what kopf has to say about its own end is of no use to anybody."""
        self._stop.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_STOP_SECONDS)


def make_registry() -> kopf.OperatorRegistry:
    """A registry of our own, so that nothing is registered by importing this module."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(log_in)
    for plural in PLURALS:
        kopf.on.event(GROUP, VERSION, plural, registry=registry)(object_event)
    kopf.on.event("batch", "v1", "jobs", registry=registry)(job_event)
    return registry


def make_settings(*, timeout_seconds: float) -> kopf.OperatorSettings:
    """Kopf as a watcher alone: it posts no events, scans for nothing, and waits for nothing at its end."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    # Namespaces and resource definitions are known at start; watching them would take rights over the whole cluster.
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.networking.error_backoffs = _ForEver()
    settings.networking.connect_timeout = timeout_seconds
    settings.networking.request_timeout = max(30.0, timeout_seconds)
    settings.queueing.exit_timeout = 0.2
    settings.watching.label_selectors["batch", "v1", "jobs"] = ",".join(
        f"{name}={value}" for name, value in MANAGED_BY.items()
    )
    return settings


class Connection(kopf.ConnectionInfo):
    """The same trust in the API server's certificate as the rest of the operator has."""

    def as_ssl_context(self) -> ssl.SSLContext:
        """Kopf's own, less strict."""
        return as_kubectl_does(super().as_ssl_context())


def log_in(**arguments: Any) -> kopf.ConnectionInfo | None:
    """As lightkube does: by the pod's service account, else by ``KUBECONFIG``."""
    info = _found(**arguments)
    return None if info is None else Connection(**{each.name: getattr(info, each.name) for each in fields(info)})


def _found(**arguments: Any) -> kopf.ConnectionInfo | None:
    info = kopf.login_with_service_account(**arguments)
    if info is None:
        return kopf.login_with_kubeconfig(**arguments)
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        return info
    # By its address, not by kubernetes.default.svc: the cluster's DNS may be what is out of order.
    return replace(info, server=_IN_CLUSTER.format(host=f"[{host}]" if ":" in host else host, port=port))


async def object_event(event: Any, memo: Memo, **_: Any) -> None:
    """One of the four kinds came, changed or went."""
    body = event["object"]
    if event["type"] == "DELETED":
        memo.loop.gone(body["metadata"]["uid"])
    else:
        memo.loop.saw(_slim(body), listed=event["type"] is None)


async def job_event(event: Any, memo: Memo, **_: Any) -> None:
    """A Job of ours did: its owner is looked at soon."""
    job = event["object"]
    owner = _owner(job["metadata"])
    if owner is None:
        return
    deleted = event["type"] == "DELETED"
    conditions = (job.get("status") or {}).get("conditions") or ()
    ended = any(each["type"] in {"Complete", "Failed"} and each["status"] == "True" for each in conditions)
    memo.looking.heard_of_job(
        owner,
        job["metadata"]["name"],
        at_work=not ended and not deleted,
        settled=deleted or job.get("spec", {}).get("ttlSecondsAfterFinished") is not None,
    )
    memo.loop.nudge(owner)


def _owner(meta: Any) -> str | None:
    """The uid of the resource whose Job it is; None where it is none of ours.

    A label alone is anybody's to write. A Job whose owner is not there is deleted by the garbage collector.
    """
    uid = (meta.get("labels") or {}).get(OWNER_LABEL, "")
    owners = meta.get("ownerReferences") or ()
    return uid if any(each["uid"] == uid and each["apiVersion"] == API_VERSION for each in owners) else None


def _slim(body: dict[str, Any]) -> dict[str, Any]:
    """Without what is kept for kubectl: more than half of an object, for each of hundreds."""
    meta = {name: value for name, value in body["metadata"].items() if name not in {"managedFields", "annotations"}}
    return {**body, "metadata": meta}

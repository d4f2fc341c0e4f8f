"""What is to be known of a Job and its pods, from the objects of the API server. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from lightkube.models.batch_v1 import JobCondition
from lightkube.models.core_v1 import ContainerStatus
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Pod

from outhaul_operator.jobs import CONTAINER
from outhaul_operator.outcomes import RunReport
from outhaul_operator.snapshot import JobView

JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
PATIENCE: Final = timedelta(seconds=30)
"""A pod that does not run so long after it was due is told of."""
_EARLIEST = datetime.min.replace(tzinfo=UTC)


def job_views(jobs: Iterable[Job], pods: Iterable[Pod], now: datetime) -> tuple[JobView, ...]:
    """The Jobs by name, each with what its last pod says."""
    of: dict[str, list[Pod]] = {}
    for pod in pods:
        labels = (pod.metadata.labels if pod.metadata else None) or {}
        of.setdefault(labels.get(JOB_NAME_LABEL, ""), []).append(pod)
    views = (_view(job, sorted(of.get(_name(job), ()), key=_made_at), now) for job in jobs)
    return tuple(sorted(views, key=lambda view: view.name))


def _view(job: Job, pods: list[Pod], now: datetime) -> JobView:
    status = job.status
    ended = _ended(job)
    state: Literal["active", "succeeded", "failed"] = "active"
    if ended is not None:
        state = "succeeded" if ended.type == "Complete" else "failed"
    reason, message = (ended.reason or "", ended.message or "") if ended is not None else _held_up(job, pods, now)
    finished_at = None
    if ended is not None:
        finished_at = (status.completionTime if status else None) or ended.lastTransitionTime
    return JobView(
        name=_name(job),
        state=state,
        reason="" if state == "succeeded" else reason,
        message="" if state == "succeeded" else message,
        result=_result(pods),
        started_at=status.startTime if status else None,
        finished_at=finished_at,
        expires=job.spec is not None and job.spec.ttlSecondsAfterFinished is not None,
    )


def _ended(job: Job) -> JobCondition | None:
    """The condition by which a Job is over; FailureTarget and SuccessCriteriaMet come while pods still run."""
    conditions = (job.status.conditions if job.status else None) or []
    return next((each for each in conditions if each.status == "True" and each.type in {"Complete", "Failed"}), None)


def _held_up(job: Job, pods: list[Pod], now: datetime) -> tuple[str, str]:
    """Why the last pod of a Job under way does not run; ("", "") when it does, or is not late yet."""
    if not pods:
        # The Job's own events alone tell why, and the operator reads no events.
        return _late(
            _made_at(job),
            now,
            "no pod of it could be made: its ServiceAccount may be missing, or a quota or an admission policy refuses "
            f"the pod; see `kubectl describe job {_name(job)}`",
        )
    if pods[-1].status is None:
        return "", ""
    container = _container(pods[-1])
    waiting = container.state.waiting if container is not None and container.state is not None else None
    if waiting is not None and waiting.reason in {"ErrImagePull", "ImagePullBackOff"}:
        # They take turns, each with words of its own; a status that follows them would be written at every look.
        return "ErrImagePull", f"the image {container.image if container else ''} cannot be pulled"
    if waiting is not None and waiting.reason not in {None, "ContainerCreating", "PodInitializing"}:
        return waiting.reason or "", waiting.message or ""
    for condition in pods[-1].status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return condition.reason or "Unschedulable", condition.message or ""
    if pods[-1].status.phase == "Pending":
        return _late(
            _made_at(pods[-1]),
            now,
            f"its pod does not start: a Secret that it mounts may be missing, or its image takes long to be pulled; "
            f"see `kubectl describe pod {_name(pods[-1])}`",
        )
    return "", ""


def _late(made_at: datetime, now: datetime, why: str) -> tuple[str, str]:
    return ("PodNotStarted", why) if now - made_at >= PATIENCE else ("", "")


def _result(pods: list[Pod]) -> RunReport | None:
    for pod in reversed(pods):
        container = _container(pod)
        state = container.state if container is not None else None
        if state is not None and state.terminated is not None and state.terminated.message:
            try:
                return RunReport.from_document(json.loads(state.terminated.message))
            except ValueError:
                return None
    return None


def _container(pod: Pod) -> ContainerStatus | None:
    statuses = (pod.status.containerStatuses if pod.status else None) or []
    return next((each for each in statuses if each.name == CONTAINER), None)


def _name(made: Job | Pod) -> str:
    return (made.metadata.name if made.metadata else None) or ""


def _made_at(made: Job | Pod) -> datetime:
    return (made.metadata.creationTimestamp if made.metadata else None) or _EARLIEST

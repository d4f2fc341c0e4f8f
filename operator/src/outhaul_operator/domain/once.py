"""One decision of a person, carried out once: what Resend and Redrive have in common.

The name of the Job stands in the status before the Job exists; Succeeded and Failed are final. A Job that is gone
before its end was seen is made again under its name, unless its run is on record as over: the run knows what it did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from outhaul.database import runs as records
from outhaul.database.runs import Run
from outhaul.errors import ConfigurationError
from outhaul_operator.conditions import Condition, instant, merge, no, shortened, transitions, unknown, yes
from outhaul_operator.jobs import job_name
from outhaul_operator.plan import EventNote, JobRequest, Plan
from outhaul_operator.snapshot import JobView, Seen, Trouble
from outhaul_operator.specs import Target

FINAL: Final = frozenset({"Succeeded", "Failed"})
_WAITING_SECONDS = 15.0
_RUNNING_SECONDS = 5.0
_HOUR = 3600.0

Counts = Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What is to be done once. ``told`` puts counts into words: as they grow, and at the end.

    ``against`` is what keeps it from being started; None: nothing that is known. ``request`` makes the Job of a name.
    """

    against: Trouble | None
    request: Callable[[str], JobRequest] | None
    told: Callable[[Counts], str]


def run_ids(target: Target, status: Mapping[str, Any]) -> tuple[str, ...]:
    """The run whose record a look has to bring; none once it is final."""
    return () if is_final(status) else (_name(target, status),)


def is_final(status: Mapping[str, Any]) -> bool:
    """Whether it is over: nothing but the ttl of its Job is left to do, and no look at its parts is needed."""
    return status.get("phase") in FINAL


def settled(seen: Seen) -> Plan:
    """What is left to do once it is final."""
    return Plan(status=seen.status, expire=_finished(seen), look_again_seconds=_HOUR)


def by_spec(seen: Seen, error: ConfigurationError, now: datetime) -> Plan:
    """Its spec cannot be read, and can never be changed: it has failed, unless it was decided about already."""
    if is_final(seen.status):
        return settled(seen)
    words = (
        f"{error}. The spec of a {seen.target.kind} cannot be changed: create another, with that field as it must be."
    )
    if "job" in seen.status:
        name = _name(seen.target, seen.status)
        words = f"what becomes of Job {name} is not followed any more: {words}"
        return _go_on(seen, name, str(seen.status.get("progress", "")), no("Progressing", "InvalidSpec", words), now)
    return _failed(seen, {"progress": "", "finishedAt": instant(now)}, "InvalidSpec", words, now, note=words)


def plan(seen: Seen, errand: Errand, runs: Mapping[str, Run] | None, now: datetime) -> Plan:
    """Decide. ``runs`` None: the records cannot be read now."""
    if seen.target.deleting:
        return Plan(status=seen.status)
    if is_final(seen.status):
        return settled(seen)
    name = _name(seen.target, seen.status)
    view = next((job for job in seen.jobs if job.name == name), None)
    run = (runs or {}).get(name)
    if view is not None and view.state != "active":
        return _end(seen, errand, name, view, run, now)
    if view is None and run is not None and run.state in {records.DONE, records.FAILED}:
        return _end(seen, errand, name, None, run, now)
    if view is None and "job" not in seen.status:
        return _begin(seen, errand, name, now)
    if view is None:
        return _again(seen, errand, name, now, known=runs is not None)
    counts = _counts(run.counts) if run is not None else {}
    progress = errand.told(counts) if counts else str(seen.status.get("progress", ""))
    return _go_on(seen, name, progress, _running(name, view), now)


def _begin(seen: Seen, errand: Errand, name: str, now: datetime) -> Plan:
    against = errand.against
    if against is None and seen.slots_free < 1:
        against = Trouble(
            "WaitsForOtherJobs", "begins when other Jobs of this operator have ended (OUTHAUL_OPERATOR_MAX_JOBS)"
        )
    if against is not None or errand.request is None:
        against = against or Trouble("NotLookedAt", "what it needs was not looked at yet")
        progressing = no("Progressing", against.reason, against.message)
        status = {"phase": "Pending", "message": shortened(against.message), "progress": ""}
        return _planned(seen, status, (progressing, *_open()), now, look_again_seconds=_WAITING_SECONDS)
    status = {"phase": "Running", "job": name, "startedAt": instant(now), "progress": "", "message": ""}
    return _planned(
        seen,
        status,
        (_running(name, None), *_open()),
        now,
        jobs=(errand.request(name),),
        events=(EventNote("Normal", "Started", f"Job {name} carries it out"),),
        look_again_seconds=_RUNNING_SECONDS,
    )


def _again(seen: Seen, errand: Errand, name: str, now: datetime, *, known: bool) -> Plan:
    """It is decided, and its Job is not there: it was not made yet, or somebody deleted it."""
    progress = str(seen.status.get("progress", ""))
    against = errand.against or seen.jobs_refused
    # The records are asked first: a run that is over is not made again.
    requests = (errand.request(name),) if errand.request and known and errand.against is None else ()
    if seen.slots_free < 1:
        requests = ()
    if against is not None:
        return _go_on(seen, name, progress, no("Progressing", against.reason, against.message), now, jobs=requests)
    return _go_on(seen, name, progress, _running(name, None), now, jobs=requests)


def _go_on(
    seen: Seen, name: str, progress: str, progressing: Condition, now: datetime, jobs: tuple[JobRequest, ...] = ()
) -> Plan:
    message = progressing.message if progressing.is_false else ""
    status = {"phase": "Running", "job": name, "progress": progress, "message": shortened(message)}
    if not seen.status.get("startedAt"):
        status["startedAt"] = instant(now)
    return _planned(seen, status, (progressing, *_open()), now, jobs=jobs, look_again_seconds=_RUNNING_SECONDS)


def _end(seen: Seen, errand: Errand, name: str, view: JobView | None, run: Run | None, now: datetime) -> Plan:
    result = view.result if view is not None else None
    done = run is not None and run.state == records.DONE
    # A pod may be lost after its run was recorded as done; one that left a report has the last word.
    failed = (view is None or view.state == "failed") and not (done and result is None)
    counts = dict(result.counts) if result is not None and result.counts else _counts(run.counts) if run else {}
    words = (result.message if result is not None else "") or (view.message if view is not None else "")
    words = shortened(words or (run.detail if run is not None else "") or "")
    reason = (result.reason if result is not None else "") or (view.reason if view is not None else "")
    told = errand.told(counts)
    status: dict[str, Any] = {"job": name, "progress": told, "counts": counts, "finishedAt": instant(now)}
    if failed:
        words = words or f"its Job failed without a word; see `kubectl describe job {name}` and its pod's log"
        return _failed(seen, status, reason or "JobFailed", words, now, note=f"{told}; {words}" if told else words)
    conditions = (
        no("Progressing", "Complete", told),
        yes("Complete", reason or "Done", f"{told}; {words}" if words else told),
        no("Failed", "Complete", told),
    )
    note = EventNote("Normal", "Succeeded", f"{told}; {words}" if words else told)
    status |= {"phase": "Succeeded", "message": words}
    return _over(seen, status, conditions, note, now)


def _failed(seen: Seen, status: Mapping[str, Any], reason: str, words: str, now: datetime, *, note: str) -> Plan:
    conditions = (
        no("Progressing", "Failed", words),
        no("Complete", "Failed", words),
        yes("Failed", reason, words),
    )
    status = {**status, "phase": "Failed", "message": shortened(words)}
    return _over(seen, status, conditions, EventNote("Warning", "Failed", note), now)


def _over(
    seen: Seen, status: Mapping[str, Any], conditions: tuple[Condition, ...], note: EventNote, now: datetime
) -> Plan:
    expire = _finished(seen)
    return _planned(seen, status, conditions, now, events=(note,), expire=expire, look_again_seconds=_HOUR, told=False)


def _planned(
    seen: Seen,
    status: Mapping[str, Any],
    conditions: tuple[Condition, ...],
    now: datetime,
    *,
    look_again_seconds: float,
    jobs: tuple[JobRequest, ...] = (),
    events: tuple[EventNote, ...] = (),
    expire: tuple[str, ...] = (),
    told: bool = True,
) -> Plan:
    """``told``: what begins to keep it from going on is told as an event; its end has one of its own."""
    before = seen.status.get("conditions") or ()
    generation = seen.target.generation
    return Plan(
        status={
            **seen.status,
            **status,
            "observedGeneration": generation,
            "conditions": merge(before, conditions, at=now, generation=generation),
        },
        jobs=jobs,
        expire=expire,
        events=(*events, *(transitions(before, conditions[:1]) if told else ())),
        look_again_seconds=look_again_seconds,
    )


def _name(target: Target, status: Mapping[str, Any]) -> str:
    """The Job's, and its run's id: as it was decided, whatever became of the generation."""
    return str(status.get("job") or job_name(target.kind, target.uid, target.generation))


def _running(name: str, view: JobView | None) -> Condition:
    if view is not None and view.reason:
        return no("Progressing", view.reason, f"Job {name}: {view.message}")
    return yes("Progressing", "Running", f"Job {name} carries it out")


def _open() -> tuple[Condition, Condition]:
    return unknown("Complete", "NotOver", "it is not over"), unknown("Failed", "NotOver", "it is not over")


def _finished(seen: Seen) -> tuple[str, ...]:
    return tuple(job.name for job in seen.jobs if job.state != "active" and not job.expires)


def _counts(counts: Mapping[str, Any]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if isinstance(count, int)}

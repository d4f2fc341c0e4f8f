"""One look at one object: see, plan, carry out in the order that a crash between any two steps cannot harm.

1. The status is written, guarded by the resourceVersion that the plan was made from. Where Jobs are to be made, it is
   written even if it says nothing new: the guard is what tells that the object was seen as it is, and not as a stale
   cache had it.
2. Jobs are made. 3. The ttl of Jobs whose result is in the status is set. 4. Events, alerts, gauges. 5. The history is
   tended, and the look that follows at once says how that went.

An API server that is away raises out of here, and the loop tries the whole look again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, Final, Literal

from outhaul.alerts import Alerter
from outhaul.errors import ConfigurationError, OuthaulError
from outhaul_operator.domain import blocked, inbox, once, outbox, redrive, resend
from outhaul_operator.jobs import FINISHED_TTL_SECONDS, JobSettings, manifest
from outhaul_operator.loop import Body, Looked
from outhaul_operator.metrics import OperatorMetrics
from outhaul_operator.plan import AlertChange, Plan, Tend
from outhaul_operator.ports import Refused
from outhaul_operator.seeing import Seeing
from outhaul_operator.slots import Slots
from outhaul_operator.snapshot import JobView, OutboxDatabase, OutboxSnapshot, Seen, Snapshot, Tended, Trouble
from outhaul_operator.specs import InboxSpec, OutboxSpec, RedriveSpec, ResendSpec, Target

_REFRESH_SECONDS: Final = 300.0  # a watch that was interrupted may never tell that an object was deleted meanwhile
_NEVER_SECONDS: Final = 3600.0
_DELETING_SECONDS: Final = 60.0
_SOON_SECONDS: Final = 0.2
_log = logging.getLogger(__name__)


class StatusRefused(OuthaulError):
    """The operator may not read or write what it has to; the message says which right it lacks."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a kind is read and planned. ``jobs``: it has none, its open round needs them, or its one decision does."""

    spec: type[OutboxSpec | InboxSpec | ResendSpec | RedriveSpec]
    domain: ModuleType
    jobs: Literal["none", "rounds", "once"]


_KINDS: Final = {
    "Outbox": _Kind(OutboxSpec, outbox, "rounds"),
    "Inbox": _Kind(InboxSpec, inbox, "none"),
    "Resend": _Kind(ResendSpec, resend, "once"),
    "Redrive": _Kind(RedriveSpec, redrive, "once"),
}


class Looking:
    """Looks at objects, for one operator. ``now`` is the wall clock, in UTC."""

    def __init__(
        self,
        seeing: Seeing,
        *,
        job_settings: JobSettings,
        slots: Slots,
        alerter: Alerter,
        metrics: OperatorMetrics,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._seeing = seeing
        self._cluster = seeing.cluster
        self._job_settings = job_settings
        self._slots = slots
        self._alerter = alerter
        self._metrics = metrics
        self._now = now
        self._known: dict[str, dict[str, bool]] = {}
        """Jobs that a watch told of, by their owner's uid: their names, and whether they are at work."""
        self._refused: dict[str, Trouble] = {}
        self._tended: dict[str, Tended] = {}
        self._fired: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
        self._objects: set[str] = set()
        """The uids of those that were looked at and are not gone."""

    def heard_of_job(self, owner: str, name: str, *, at_work: bool, settled: bool) -> None:
        """A Job exists. ``settled``: it is deleted or will be by itself, and nothing is left to do about it.

        It is a hint that there is something to list, and after a restart that others have Jobs at work; what is
        decided about an object rests on what the API server says when it is looked at.
        """
        names = self._known.setdefault(owner, {})
        if settled:
            names.pop(name, None)
        else:
            names[name] = at_work
        if owner in self._objects:
            self._slots.at_least(owner, sum(names.values()))
        else:
            # No look will correct it: it was not looked at yet, or is gone and its Jobs go after it.
            self._slots.take(owner, sum(names.values()))
        if not names:
            del self._known[owner]

    def forget(self, body: Body) -> None:
        """The object was deleted: its series and its alerts go, its Jobs are the garbage collector's."""
        target = Target.from_body(body)
        self._objects.discard(target.uid)
        self._slots.take(target.uid, 0)
        self._refused.pop(target.uid, None)
        self._tended.pop(target.uid, None)
        self._known.pop(target.uid, None)
        self._metrics.forget(target.kind, target.namespace, target.name)
        self._tell_alerts(_KINDS[target.kind].domain.gone(target, body.get("status") or {}))

    async def look(self, body: Body, age_seconds: float) -> Looked:
        """Look at the object whose newest body is ``body``, heard of so long ago. Raises Unreachable of the API."""
        fresh = None
        if age_seconds > _REFRESH_SECONDS:
            fresh = await self._fresh(body)
            if fresh is None:
                return Looked(_NEVER_SECONDS, gone=True)
            body = fresh
        target = Target.from_body(body)
        if target.deleting:
            return Looked(_DELETING_SECONDS, fresh)
        self._objects.add(target.uid)
        status: Mapping[str, Any] = body.get("status") or {}
        plan = await self._plan(target, body, status)
        looked = await self._carry_out(target, body, status, plan)
        return looked if looked.body is not None else replace(looked, body=fresh)

    async def _plan(self, target: Target, body: Body, status: Mapping[str, Any]) -> Plan:
        kind = _KINDS[target.kind]
        try:
            spec: Any = kind.spec.from_body(body)
        except ConfigurationError as error:
            self._hold_what_was_heard_of(target.uid)
            if kind.jobs == "once":
                return once.by_spec(Seen(target=target, status=status), error, self._now())
            return blocked.by_spec(target, status, error, self._now())
        jobs = await self._jobs(kind, target, status)
        if isinstance(jobs, Trouble):
            self._hold_what_was_heard_of(target.uid)
            return blocked.plan(target, status, jobs, self._now())
        seen = Seen(
            target=target,
            status=status,
            jobs=jobs or (),
            jobs_refused=self._refused.get(target.uid),
            slots_free=0,
            tended=self._tended.get(target.uid),
        )
        if kind.jobs == "once" and once.is_final(status):
            self._slots.take(target.uid, 0)
            return once.settled(seen)
        snapshot: Any = await self._see(kind, spec, seen)
        if jobs is None and isinstance(snapshot, OutboxSnapshot) and _is_stuck(snapshot):
            jobs = await self._cluster.jobs_of(target)
            if isinstance(jobs, Trouble):
                self._hold_what_was_heard_of(target.uid)
                return blocked.plan(target, status, jobs, self._now())
            snapshot = replace(snapshot, jobs=jobs)
        self._count_troubles(snapshot)
        at_work = {job.name for job in jobs or () if job.state == "active"}
        self._slots.take(target.uid, len(at_work))
        plan: Plan = kind.domain.plan(spec, replace(snapshot, slots_free=self._slots.free()), self._now())
        self._slots.take(target.uid, len(at_work | {job.name for job in plan.jobs}))
        return plan

    def _hold_what_was_heard_of(self, uid: str) -> None:
        """Nothing is decided, so no more Jobs of it are at work than the watch told of."""
        self._slots.take(uid, sum(self._known.get(uid, {}).values()))

    async def _jobs(
        self, kind: _Kind, target: Target, status: Mapping[str, Any]
    ) -> tuple[JobView, ...] | Trouble | None:
        """The object's Jobs where they can matter; None where they were not asked for.

        Most objects have none most of the time, and one request less a look is a third of all.
        """
        if kind.jobs == "none":
            return None
        if target.uid in self._known or (kind.jobs == "once" and not once.is_final(status)):
            return await self._cluster.jobs_of(target)
        if kind.jobs == "rounds" and outbox.run_ids(target, status):
            return await self._cluster.jobs_of(target)
        return None

    async def _see(self, kind: _Kind, spec: Any, seen: Seen) -> Snapshot:
        if isinstance(spec, InboxSpec):
            return await self._seeing.inbox(spec, seen, ())
        run_ids = kind.domain.run_ids(seen.target, seen.status)
        if isinstance(spec, OutboxSpec):
            return await self._seeing.outbox(spec, seen, run_ids)
        if isinstance(spec, ResendSpec):
            return await self._seeing.resend(spec, seen, run_ids)
        return await self._seeing.redrive(spec, seen, run_ids)

    async def _carry_out(self, target: Target, body: Body, status: Mapping[str, Any], plan: Plan) -> Looked:
        again = _NEVER_SECONDS if plan.look_again_seconds is None else plan.look_again_seconds
        news = None
        if plan.jobs or plan.status != status:
            written = await self._cluster.write_status(target, plan.status)
            if isinstance(written, Refused):
                return await self._refused_status(target, body, written)
            target = replace(target, resource_version=written)
            news = {
                **body,
                "metadata": {**body["metadata"], "resourceVersion": written},
                "status": plan.status,
            }
        if await self._make_jobs(target, plan):
            again = min(again, _SOON_SECONDS)
        for name in plan.expire:
            refused = await self._cluster.set_ttl(target, name, FINISHED_TTL_SECONDS)
            if refused is not None:
                _log.warning("a finished Job stays: %s", refused.trouble.message, extra={"object": str(target)})
        for note in plan.events:
            await self._cluster.event(target, note)
        self._tell_alerts(plan.alerts)
        self._metrics.show(target.kind, target.namespace, target.name, plan.status, self._now())
        if plan.tend is not None:
            await self._tend(target, body, plan.tend)
            again = min(again, _SOON_SECONDS)
        return Looked(again, news)

    async def _make_jobs(self, target: Target, plan: Plan) -> bool:
        """Make what was decided. Whether there is news for the status: a refusal, or that it is over."""
        before = self._refused.pop(target.uid, None)
        for request in plan.jobs:
            refused = await self._cluster.create_job(target, manifest(request, target, self._job_settings))
            if refused is None:
                self.heard_of_job(target.uid, request.name, at_work=True, settled=False)
                self._metrics.jobs.inc(kind=target.kind)
                _log.info("Job %s made", request.name, extra={"object": str(target)})
            else:
                self._refused[target.uid] = refused.trouble
        if not plan.jobs and before is not None:
            # Nothing was asked for this time, so it is not known whether it would be taken now.
            self._refused[target.uid] = before
        return bool(plan.jobs) and self._refused.get(target.uid) != before

    async def _refused_status(self, target: Target, body: Body, refused: Refused) -> Looked:
        """Nothing is done that the status does not say: look again, at the object as it is now."""
        if not refused.conflict:
            raise StatusRefused(refused.trouble.message)
        self._metrics.conflicts.inc(kind=target.kind)
        fresh = await self._fresh(body)
        if fresh is None:
            return Looked(_NEVER_SECONDS, gone=True)
        return Looked(_SOON_SECONDS, fresh)

    async def _fresh(self, body: Body) -> Body | None:
        """The object as it is now; None where it is gone, or another has its name."""
        meta = body["metadata"]
        found = await self._cluster.body(str(body["kind"]), meta["namespace"], meta["name"])
        if isinstance(found, Trouble):
            raise StatusRefused(found.message)
        return found if found is not None and found["metadata"]["uid"] == meta["uid"] else None

    async def _tend(self, target: Target, body: Body, tend: Tend) -> None:
        spec = _KINDS[target.kind].spec.from_body(body)
        assert isinstance(spec, OutboxSpec | InboxSpec)
        url = await self._seeing.database_url(target, spec.database)
        trouble = url if isinstance(url, Trouble) else await self._seeing.databases.tend_history(url, tend)
        self._tended[target.uid] = Tended(self._now(), trouble)
        if trouble is not None:
            self._metrics.troubles.inc(part="history", reason=trouble.reason)
            _log.warning("the history was not tended: %s", trouble.message, extra={"object": str(target)})

    def _count_troubles(self, snapshot: Snapshot) -> None:
        for part, seen in (("database", snapshot.database), ("broker", snapshot.broker)):
            if isinstance(seen, Trouble):
                self._metrics.troubles.inc(part=part, reason=seen.reason)

    def _tell_alerts(self, alerts: tuple[AlertChange, ...]) -> None:
        """Fire and resolve; what no process is known to have fired needs no resolving, at each look of each object."""
        for alert in alerts:
            key = (alert.name, tuple(alert.labels.items()))
            if alert.firing:
                self._fired.add(key)
                self._alerter.fire(
                    alert.name,
                    labels=alert.labels,
                    summary=alert.summary,
                    description=alert.description,
                    severity=alert.severity,
                )
            elif key in self._fired or alert.since is not None:
                self._fired.discard(key)
                self._alerter.resolve(
                    alert.name,
                    labels=alert.labels,
                    severity=alert.severity,
                    fired_at=alert.since,
                    summary=alert.summary,
                )


def _is_stuck(snapshot: OutboxSnapshot) -> bool:
    return isinstance(snapshot.database, OutboxDatabase) and snapshot.database.counts.stuck > 0

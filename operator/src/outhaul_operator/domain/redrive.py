"""What is to be done about a Redrive: move dead letters back, or give them up, once, as soon as that can succeed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from outhaul.topology import dead_letter_queue
from outhaul_operator.domain import diagnosis, once
from outhaul_operator.plan import AlertChange, JobRequest, Plan
from outhaul_operator.requests import RedriveRun
from outhaul_operator.snapshot import BrokerView, InboxDatabase, RedriveSnapshot, Trouble
from outhaul_operator.specs import InboxSpec, RedriveSpec, Target

_LEAST_DEADLINE_SECONDS = 1800


def plan(spec: RedriveSpec, snapshot: RedriveSnapshot, now: datetime) -> Plan:
    """Decide. The same snapshot with the status of this plan gives the same status, and no Job or event again."""
    inbox = snapshot.inbox
    runs = snapshot.database.runs if isinstance(snapshot.database, InboxDatabase) else None
    errand = once.Errand(
        against=_against(spec, snapshot),
        request=(lambda name: _request(spec, inbox, snapshot.target, name)) if isinstance(inbox, InboxSpec) else None,
        told=lambda counts: _told(spec, counts),
    )
    return once.plan(snapshot, errand, runs, now)


def run_ids(target: Target, status: Mapping[str, Any]) -> tuple[str, ...]:
    """The runs whose records a look has to bring."""
    return once.run_ids(target, status)


def gone(_target: Target, _status: Mapping[str, Any]) -> tuple[AlertChange, ...]:
    """It has no alerts: how it ended stands on it."""
    return ()


def _against(spec: RedriveSpec, snapshot: RedriveSnapshot) -> Trouble | None:
    inbox, namespace = snapshot.inbox, snapshot.target.namespace
    if inbox is None:
        text = f"there is no Inbox {spec.inbox} in namespace {namespace}; create it, or delete this Redrive"
        return Trouble("InboxMissing", text)
    if isinstance(inbox, Trouble):
        return Trouble(inbox.reason, f"Inbox {spec.inbox}: {inbox.message}")
    against = diagnosis.obstacle(snapshot.database, snapshot.broker) or _queue_missing(spec, inbox, snapshot.broker)
    if against is not None:
        return Trouble(against.reason, f"waits for Inbox {spec.inbox}: {against.message}")
    return None


def _queue_missing(spec: RedriveSpec, inbox: InboxSpec, broker: BrokerView | Trouble | None) -> Trouble | None:
    if not isinstance(broker, BrokerView) or broker.depths is None:
        return None
    if broker.depths.dead is None:
        text = f"queue {dead_letter_queue(inbox.queue)} does not exist; {diagnosis.APPLY}"
        return Trouble("DeadLetterQueueMissing", text)
    if broker.depths.main is None and not spec.discard_reason:
        return Trouble("QueueMissing", f"queue {inbox.queue} does not exist; {diagnosis.APPLY}")
    return None


def _request(spec: RedriveSpec, inbox: InboxSpec, target: Target, name: str) -> JobRequest:
    paced_seconds = 0 if spec.dry_run or spec.discard_reason else spec.limit // spec.rate_per_second
    return JobRequest(
        name=name,
        run=RedriveRun(
            queue=inbox.queue,
            consumer=inbox.consumer,
            filter=spec.filter,
            limit=spec.limit,
            rate_per_second=spec.rate_per_second,
            dry_run=spec.dry_run,
            discard_reason=spec.discard_reason,
            force=spec.force,
        ),
        database=inbox.database,
        broker=inbox.broker,
        actor=f"outhaul-operator: {target}",
        # Twice, for a broker and a database that take their time.
        deadline_seconds=_LEAST_DEADLINE_SECONDS + 2 * paced_seconds,
    )


def _told(spec: RedriveSpec, counts: once.Counts) -> str:
    verb = "discarded" if spec.discard_reason else "moved"
    if spec.dry_run:
        verb = "would be " + verb
    parts = [f"{counts.get('moved', 0)} {verb}, of {counts.get('seen', 0)} dead letters seen"]
    parts += [f"{counts[name]} {words}" for name, words in _LEFT.items() if counts.get(name)]
    return ", ".join(parts)


_LEFT = {
    "too_old": "left, for the inbox may have forgotten their effect (force: true moves them too)",
    "not_taken": "not taken by the broker",
    "came_back": "came back while it ran",
}

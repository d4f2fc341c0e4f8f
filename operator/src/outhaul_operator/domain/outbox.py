"""What is to be done about an Outbox: show what waits, say why, and send what nobody else will.

A Job is started only where rows are stuck, no living sender will send them, and nothing is known that would make it
fail. What is known against it is said instead, and the moment it is gone the Jobs are started.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from outhaul_operator.conditions import Condition, instant, instant_or_none, merge, no, transitions, unknown, yes
from outhaul_operator.domain import diagnosis
from outhaul_operator.domain.alerting import (
    BROKER_UNREACHABLE,
    DATABASE_UNREACHABLE,
    Alarm,
    noted,
    on_condition,
    remembered,
    resolved,
)
from outhaul_operator.domain.rounds import Round, advance, next_round
from outhaul_operator.plan import AlertChange, EventNote, JobRequest, Plan, Tend
from outhaul_operator.requests import ResendRun
from outhaul_operator.snapshot import BrokerView, OutboxDatabase, OutboxSnapshot, Trouble
from outhaul_operator.specs import OutboxSpec, Target

STUCK: Final = Alarm("OuthaulOutboxStuck", "critical")
PARKED: Final = Alarm("OuthaulParked", "warning")
ROUTE_HELD_BACK: Final = Alarm("OuthaulRouteHeldBack", "critical")
RESEND_FAILING: Final = Alarm("OuthaulResendFailing", "warning")
ALARMS: Final = (DATABASE_UNREACHABLE, BROKER_UNREACHABLE, STUCK, PARKED, ROUTE_HELD_BACK, RESEND_FAILING)

TEND_SECONDS: Final = 3600.0
_SOON_SECONDS = 1.0
_WHILE_RUNNING_SECONDS = 5.0
_LEAST_DEADLINE_SECONDS = 600
# Slower than any broker that works: 1.3k/s was measured for one confirm after the other.
_ROWS_PER_SECOND = 50


@dataclass(frozen=True, slots=True)
class _Resending:
    """What becomes of what is stuck: the round as it is after this look, and what is said about it."""

    round: Round | None
    draining: Condition
    jobs: tuple[str, ...] = ()
    events: tuple[EventNote, ...] = ()
    soon_seconds: float | None = None


def plan(spec: OutboxSpec, snapshot: OutboxSnapshot, now: datetime) -> Plan:
    """Decide. The same snapshot with the status of this plan gives the same status, and no Job or event again."""
    target, before = snapshot.target, snapshot.status
    if target.deleting:
        return Plan(status=before)
    database, broker = snapshot.database, snapshot.broker
    resending = _resend(spec, snapshot, now)
    parts = (
        diagnosis.database_condition(database),
        diagnosis.broker_condition(broker),
        diagnosis.routable_condition(database, broker),
        resending.draining,
        diagnosis.topology_condition(broker, declared=spec.topology is not None),
    )
    ready = diagnosis.ready_condition(
        parts, fine=_fine(database, resending.draining), harmless_unknown=frozenset({"Routable", "TopologyInSync"})
    )
    earlier = before.get("conditions") or ()
    conditions = merge(earlier, (ready, *parts), at=now, generation=target.generation)
    tend = _tend(spec, snapshot, now)
    status = _status(snapshot, resending.round)
    status |= {"observedGeneration": target.generation, "conditions": conditions}
    if tend is not None:
        status["tendedAt"] = instant(now)
    alerts = _alerts(spec, snapshot, resending.round, conditions, now)
    status["alerts"] = noted(before, alerts, now)
    return Plan(
        status=status,
        jobs=tuple(_request(spec, target, name) for name in resending.jobs),
        expire=_expired(snapshot, resending.round),
        events=(*resending.events, *transitions(earlier, parts)),
        alerts=remembered(before, alerts),
        tend=tend,
        look_again_seconds=min(spec.interval_seconds, resending.soon_seconds or spec.interval_seconds),
    )


def run_ids(target: Target, status: Mapping[str, Any]) -> tuple[str, ...]:
    """The runs whose records a look has to bring: those of a round that is not over."""
    this = Round.from_status(status.get("resend"))
    return () if this is None or this.is_over else this.names(target.uid)


def gone(target: Target, status: Mapping[str, Any]) -> tuple[AlertChange, ...]:
    """The alerts that end with the object; ``status`` is the last one known."""
    return resolved(target, status, ALARMS)


def _resend(spec: OutboxSpec, snapshot: OutboxSnapshot, now: datetime) -> _Resending:
    last = Round.from_status(snapshot.status.get("resend"))
    database = snapshot.database
    if last is not None and not last.is_over:
        return _go_on(snapshot, last, now)
    if isinstance(database, Trouble):
        return _Resending(last, _not_seen(database))
    return _decide(spec, snapshot, database, last, now)


def _go_on(snapshot: OutboxSnapshot, this: Round, now: datetime) -> _Resending:
    """A round is under way."""
    database = snapshot.database
    runs = None if isinstance(database, Trouble) else database.runs
    after, missing = advance(
        this,
        snapshot.target.uid,
        snapshot.jobs,
        runs,
        still_stuck=not isinstance(database, Trouble) and _sendable(database, snapshot.broker) > 0,
        routes_are_broken=diagnosis.routable_condition(database, snapshot.broker).is_false,
        counted_at=None if isinstance(database, Trouble) else database.at,
        now=now,
    )
    if after.is_over:
        # What is stuck may have been counted before the last Job ended: the next look decides what follows.
        draining = _not_seen(database) if isinstance(database, Trouble) else _ended(after)
        return _Resending(after, draining, events=_ending(after), soon_seconds=_SOON_SECONDS)
    against = diagnosis.obstacle(database, snapshot.broker)
    held_up = [job for job in snapshot.jobs if job.name in after.names(snapshot.target.uid) and job.reason]
    if missing and against is not None:
        draining = no("Draining", against.reason, f"round {after.number} waits: {against.message}")
        return _Resending(after, draining)
    if missing and snapshot.jobs_refused is not None:
        draining = no("Draining", snapshot.jobs_refused.reason, snapshot.jobs_refused.message)
    elif held_up:
        draining = no("Draining", held_up[0].reason, f"Job {held_up[0].name}: {held_up[0].message}")
    else:
        draining = yes("Draining", "Resending", f"round {after.number} is under way, with {_jobs(after.jobs)}")
    return _Resending(after, draining, jobs=missing[: snapshot.slots_free], soon_seconds=_WHILE_RUNNING_SECONDS)


def _decide(
    spec: OutboxSpec, snapshot: OutboxSnapshot, database: OutboxDatabase, last: Round | None, now: datetime
) -> _Resending:
    """No round is under way: is one needed, and would it help?"""
    if last is not None and last.was_seen_over_by(database.at):
        return _Resending(last, _ended(last), soon_seconds=_SOON_SECONDS)
    if database.counts.stuck == 0:
        return _Resending(_forgiven(last), yes("Draining", "NothingStuck", "no row is stuck"))
    sender = diagnosis.sender_at_work(database)
    if sender is not None:
        text = f"{sender.name} on {sender.host} is alive and sends: what is stuck is left to it"
        return _Resending(last, yes("Draining", "SenderAtWork", text))
    nobody = diagnosis.who_sends(database)
    against = diagnosis.obstacle(database, snapshot.broker)
    sendable = _sendable(database, snapshot.broker)
    if against is None and sendable <= 0:
        against = _first_blocked(database, snapshot.broker)
    if against is not None:
        # It explains the failures so far: once it is gone, nothing is waited for.
        text = f"rows are stuck and {nobody}; no Job is started, for it would fail: {against.message}"
        return _Resending(_forgiven(last), no("Draining", against.reason, text))
    if not spec.resend.enabled:
        text = f"rows are stuck and {nobody}; start the producer, set spec.resend.enabled, or create a Resend"
        return _Resending(last, no("Draining", "ResendDisabled", text))
    wait_seconds = last.wait_seconds(now) if last is not None else 0.0
    if last is not None and wait_seconds:
        return _Resending(last, _ended(last), soon_seconds=max(_SOON_SECONDS, wait_seconds))
    if snapshot.slots_free < 1:
        text = "rows are stuck; their Jobs begin when others of this operator have ended (OUTHAUL_OPERATOR_MAX_JOBS)"
        return _Resending(last, no("Draining", "WaitsForOtherJobs", text))
    number_of_jobs = min(
        spec.resend.max_parallel_jobs, math.ceil(sendable / spec.resend.batch_size), snapshot.slots_free
    )
    this = next_round(
        last, snapshot.jobs, generation=snapshot.target.generation, number_of_jobs=number_of_jobs, now=now
    )
    text = f"round {this.number}: {_jobs(number_of_jobs)} for {sendable} stuck rows, since {nobody}"
    return _Resending(
        this,
        yes("Draining", "Resending", f"round {this.number} is under way, with {_jobs(number_of_jobs)}"),
        jobs=this.names(snapshot.target.uid),
        events=(EventNote("Normal", "ResendStarted", text),),
        soon_seconds=_WHILE_RUNNING_SECONDS,
    )


def _sendable(database: OutboxDatabase, broker: BrokerView | Trouble | None) -> int:
    """Stuck rows but those of routes that take nothing."""
    if not isinstance(broker, BrokerView):
        return 0
    blocked = sum(route.stuck for route in database.routes if diagnosis.blocked_route(route, broker) is not None)
    return database.counts.stuck - blocked


def _first_blocked(database: OutboxDatabase, broker: BrokerView | Trouble | None) -> Trouble | None:
    assert isinstance(broker, BrokerView)
    causes = (diagnosis.blocked_route(route, broker) for route in database.routes if route.stuck)
    return next((cause for cause in causes if cause is not None), None)


def _forgiven(last: Round | None) -> Round | None:
    return replace(last, failures=0) if last is not None and last.failures else last


def _ended(last: Round) -> Condition:
    if last.state == "Succeeded":
        return yes("Draining", "Resending", f"round {last.number} sent {last.sent} rows")
    next_at = last.next_at()
    when = f"; the next begins at {instant(next_at)} if rows are stuck then" if next_at else ""
    return no("Draining", "ResendFailed", f"round {last.number} failed{when}: {last.message}")


def _not_seen(database: Trouble) -> Condition:
    return unknown("Draining", "DatabaseNotSeen", f"what waits cannot be seen: {database.message}")


def _ending(last: Round) -> tuple[EventNote, ...]:
    """A failure is told by Draining, which does not hold then."""
    if last.state == "Failed":
        return ()
    return (EventNote("Normal", "ResendSucceeded", f"round {last.number} sent {last.sent} rows"),)


def _jobs(number: int) -> str:
    return "one Job" if number == 1 else f"{number} Jobs"


def _request(spec: OutboxSpec, target: Target, name: str) -> JobRequest:
    rows = spec.resend.batch_size
    return JobRequest(
        name=name,
        run=ResendRun(limit=rows, max_attempts=spec.resend.max_attempts),
        database=spec.database,
        broker=spec.broker,
        actor=f"outhaul-operator: {target}",
        deadline_seconds=_LEAST_DEADLINE_SECONDS + rows // _ROWS_PER_SECOND,
    )


def _expired(snapshot: OutboxSnapshot, this: Round | None) -> tuple[str, ...]:
    """Finished Jobs whose decision is over, as the status written with this plan says."""
    kept = () if this is None or this.is_over else this.names(snapshot.target.uid)
    return tuple(
        job.name for job in snapshot.jobs if job.state != "active" and not job.expires and job.name not in kept
    )


def _fine(database: OutboxDatabase | Trouble, draining: Condition) -> tuple[str, str]:
    if draining.reason != "NothingStuck":
        return draining.reason, draining.message
    if isinstance(database, OutboxDatabase) and database.counts.parked:
        reasons = "; ".join(f"{rows} rows: {reason or 'no reason given'}" for reason, rows in database.parked_reasons)
        remedy = "mend the cause and create a Resend with parked: true, or `outhaul discard` them"
        return "RowsParked", f"all is in order but for parked rows ({reasons or database.counts.parked}); {remedy}"
    return "AsItShouldBe", "what is recorded is sent"


def _status(snapshot: OutboxSnapshot, this: Round | None) -> dict[str, Any]:
    status = {name: value for name, value in snapshot.status.items() if name != "oldestAt"}
    if isinstance(snapshot.database, Trouble):
        # The last counts stay, and DatabaseReachable says that they are of earlier.
        status = dict(snapshot.status)
    else:
        counts = snapshot.database.counts
        status |= {"pending": counts.pending, "stuck": counts.stuck, "parked": counts.parked}
        status["senders"] = len(snapshot.database.senders)
        if counts.oldest_at is not None:
            status["oldestAt"] = instant(counts.oldest_at)
    if this is not None:
        status["resend"] = this.document()
        if this.finished_at:
            status["lastResend"] = this.finished_at
    return status


def _tend(spec: OutboxSpec, snapshot: OutboxSnapshot, now: datetime) -> Tend | None:
    if diagnosis.database_condition(snapshot.database).is_false:
        return None
    last = instant_or_none(snapshot.status.get("tendedAt"))
    # An instant far ahead was written by a clock that was wrong.
    due = last is None or abs(now - last) >= timedelta(seconds=TEND_SECONDS)
    return Tend(component="outbox", keep_days=spec.sent_days) if due else None


def _alerts(
    spec: OutboxSpec, snapshot: OutboxSnapshot, this: Round | None, conditions: list[dict[str, Any]], now: datetime
) -> tuple[AlertChange, ...]:
    target, database = snapshot.target, snapshot.database
    found = [
        *on_condition(
            DATABASE_UNREACHABLE,
            target,
            conditions,
            "DatabaseReachable",
            summary=f"The database of {target} cannot be used",
            now=now,
        ),
        *on_condition(
            BROKER_UNREACHABLE,
            target,
            conditions,
            "BrokerReachable",
            summary=f"The broker of {target} takes nothing",
            now=now,
        ),
        *on_condition(
            ROUTE_HELD_BACK,
            target,
            conditions,
            "Routable",
            summary=f"Rows of {target} lead to no queue",
            now=now,
        ),
    ]
    if this is not None:
        summary = f"Resending what is stuck in {target} fails again and again"
        found.append(RESEND_FAILING.change(target, firing=this.failures > 1, summary=summary, description=this.message))
    if isinstance(database, OutboxDatabase):
        found += _count_alerts(spec, target, database, conditions)
    return tuple(found)


def _count_alerts(
    spec: OutboxSpec, target: Target, database: OutboxDatabase, conditions: list[dict[str, Any]]
) -> list[AlertChange]:
    counts = database.counts
    why = "; ".join(str(each["message"]) for each in conditions if each["status"] == "False")
    old = counts.oldest_at is not None and counts.oldest_age_seconds > spec.alert_oldest_age_seconds
    since = instant(counts.oldest_at) if counts.oldest_at is not None else ""
    reasons = "; ".join(f"{rows} rows: {reason or 'no reason given'}" for reason, rows in database.parked_reasons)
    return [
        STUCK.change(
            target,
            firing=old,
            summary=f"The oldest row of {target} waits since {since}",
            description=why or diagnosis.who_sends(database),
        ),
        PARKED.change(
            target,
            firing=counts.parked >= spec.alert_parked,
            summary=f"{counts.parked} rows of {target} are parked and wait for a person",
            description=f"{reasons}. Mend the cause and create a Resend with parked: true, or `outhaul discard` them.",
        ),
    ]

"""What becomes of the rows that are stuck in an Outbox.

A Job is started only where rows are stuck, no living sender will send them, and nothing is known that would make it
fail. What is known against it is said instead, and the moment it is gone the Jobs are started.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime

from outhaul_operator.conditions import Condition, instant, no, unknown, yes
from outhaul_operator.domain import diagnosis
from outhaul_operator.domain.rounds import Round, advance, next_round
from outhaul_operator.plan import EventNote, JobRequest
from outhaul_operator.requests import ResendRun
from outhaul_operator.snapshot import BrokerView, OutboxDatabase, OutboxSnapshot, Trouble
from outhaul_operator.specs import OutboxSpec, Target

_SOON_SECONDS = 1.0
_WHILE_RUNNING_SECONDS = 5.0
_LEAST_DEADLINE_SECONDS = 600
# Slower than any broker that works: 1.3k/s was measured for one confirm after the other.
_ROWS_PER_SECOND = 50


@dataclass(frozen=True, slots=True)
class Resending:
    """What becomes of what is stuck: the round as it is after this look, and what is said about it."""

    round: Round | None
    draining: Condition
    jobs: tuple[str, ...] = ()
    events: tuple[EventNote, ...] = ()
    soon_seconds: float | None = None


def resend(spec: OutboxSpec, snapshot: OutboxSnapshot, now: datetime) -> Resending:
    """What becomes of what is stuck: go on with a round, begin one, or say what is in the way."""
    last = Round.from_status(snapshot.status.get("resend"))
    database = snapshot.database
    if last is not None and not last.is_over:
        return _go_on(snapshot, last, now)
    if isinstance(database, Trouble):
        return Resending(last, _not_seen(database))
    return _decide(spec, snapshot, database, last, now)


def _go_on(snapshot: OutboxSnapshot, this: Round, now: datetime) -> Resending:
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
        return Resending(after, draining, events=_ending(after), soon_seconds=_SOON_SECONDS)
    against = diagnosis.obstacle(database, snapshot.broker)
    held_up = [job for job in snapshot.jobs if job.name in after.names(snapshot.target.uid) and job.reason]
    if missing and against is not None:
        draining = no("Draining", against.reason, f"round {after.number} waits: {against.message}")
        return Resending(after, draining)
    if missing and snapshot.jobs_refused is not None:
        draining = no("Draining", snapshot.jobs_refused.reason, snapshot.jobs_refused.message)
    elif held_up:
        draining = no("Draining", held_up[0].reason, f"Job {held_up[0].name}: {held_up[0].message}")
    else:
        draining = yes("Draining", "Resending", f"round {after.number} is under way, with {_jobs(after.jobs)}")
    return Resending(after, draining, jobs=missing[: snapshot.slots_free], soon_seconds=_WHILE_RUNNING_SECONDS)


def _decide(
    spec: OutboxSpec, snapshot: OutboxSnapshot, database: OutboxDatabase, last: Round | None, now: datetime
) -> Resending:
    """No round is under way: is one needed, and would it help?"""
    if last is not None and last.was_seen_over_by(database.at):
        return Resending(last, _ended(last), soon_seconds=_SOON_SECONDS)
    if database.counts.stuck == 0:
        return Resending(_forgiven(last), yes("Draining", "NothingStuck", "no row is stuck"))
    sender = diagnosis.sender_at_work(database)
    if sender is not None:
        text = f"{sender.name} on {sender.host} is alive and sends: what is stuck is left to it"
        return Resending(last, yes("Draining", "SenderAtWork", text))
    nobody = diagnosis.who_sends(database)
    against = diagnosis.obstacle(database, snapshot.broker)
    sendable = _sendable(database, snapshot.broker)
    if against is None and sendable <= 0:
        against = _first_blocked(database, snapshot.broker)
    if against is not None:
        # It explains the failures so far: once it is gone, nothing is waited for.
        text = f"rows are stuck and {nobody}; no Job is started, for it would fail: {against.message}"
        return Resending(_forgiven(last), no("Draining", against.reason, text))
    if not spec.resend.enabled:
        text = f"rows are stuck and {nobody}; start the producer, set spec.resend.enabled, or create a Resend"
        return Resending(last, no("Draining", "ResendDisabled", text))
    wait_seconds = last.wait_seconds(now) if last is not None else 0.0
    if last is not None and wait_seconds:
        return Resending(last, _ended(last), soon_seconds=max(_SOON_SECONDS, wait_seconds))
    if snapshot.slots_free < 1:
        text = "rows are stuck; their Jobs begin when others of this operator have ended (OUTHAUL_OPERATOR_MAX_JOBS)"
        return Resending(last, no("Draining", "WaitsForOtherJobs", text))
    number_of_jobs = min(
        spec.resend.max_parallel_jobs, math.ceil(sendable / spec.resend.batch_size), snapshot.slots_free
    )
    this = next_round(
        last, snapshot.jobs, generation=snapshot.target.generation, number_of_jobs=number_of_jobs, now=now
    )
    text = f"round {this.number}: {_jobs(number_of_jobs)} for {sendable} stuck rows, since {nobody}"
    return Resending(
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


def request(spec: OutboxSpec, target: Target, name: str) -> JobRequest:
    """One Job of a round."""
    rows = spec.resend.batch_size
    return JobRequest(
        name=name,
        run=ResendRun(limit=rows, max_attempts=spec.resend.max_attempts),
        database=spec.database,
        broker=spec.broker,
        actor=f"outhaul-operator: {target}",
        deadline_seconds=_LEAST_DEADLINE_SECONDS + rows // _ROWS_PER_SECOND,
    )

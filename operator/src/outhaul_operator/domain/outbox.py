"""What is to be done about an Outbox: show what waits, say why, tell people, and have sent what nobody else sends."""

from __future__ import annotations

from collections.abc import Mapping
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
from outhaul_operator.domain.resending import request, resend
from outhaul_operator.domain.rounds import Round
from outhaul_operator.plan import AlertChange, Plan, Tend
from outhaul_operator.snapshot import OutboxDatabase, OutboxSnapshot, Trouble
from outhaul_operator.specs import OutboxSpec, Target

STUCK: Final = Alarm("OuthaulOutboxStuck", "critical")
PARKED: Final = Alarm("OuthaulParked", "warning")
ROUTE_HELD_BACK: Final = Alarm("OuthaulRouteHeldBack", "critical")
RESEND_FAILING: Final = Alarm("OuthaulResendFailing", "warning")
ALARMS: Final = (DATABASE_UNREACHABLE, BROKER_UNREACHABLE, STUCK, PARKED, ROUTE_HELD_BACK, RESEND_FAILING)

TEND_SECONDS: Final = 3600.0
TEND_AGAIN_SECONDS: Final = 300.0
"""After it failed."""


def plan(spec: OutboxSpec, snapshot: OutboxSnapshot, now: datetime) -> Plan:
    """Decide. The same snapshot with the status of this plan gives the same status, and no Job or event again."""
    target, before = snapshot.target, snapshot.status
    if target.deleting:
        return Plan(status=before)
    database, broker = snapshot.database, snapshot.broker
    resending = resend(spec, snapshot, now)
    parts = (
        diagnosis.database_condition(database),
        diagnosis.broker_condition(broker),
        diagnosis.routable_condition(database, broker),
        resending.draining,
        diagnosis.topology_condition(broker, declared=spec.topology is not None),
        _history_tended(snapshot),
    )
    # A history that grows is told apart from what keeps messages from being sent.
    ready = diagnosis.ready_condition(
        parts[:-1], fine=_fine(database, resending.draining), harmless_unknown=frozenset({"Routable", "TopologyInSync"})
    )
    earlier = before.get("conditions") or ()
    conditions = merge(earlier, (ready, *parts), at=now, generation=target.generation)
    tend = _tend(spec, snapshot, now)
    status = _status(snapshot, resending.round)
    status |= {"observedGeneration": target.generation, "conditions": conditions}
    alerts = _alerts(spec, snapshot, resending.round, conditions, now)
    status["alerts"] = noted(before, alerts, now)
    return Plan(
        status=status,
        jobs=tuple(request(spec, target, name) for name in resending.jobs),
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
    if snapshot.tended is not None and snapshot.tended.trouble is None:
        status["tendedAt"] = instant(snapshot.tended.at)
    if this is not None:
        status["resend"] = this.document()
        if this.finished_at:
            status["lastResend"] = this.finished_at
    return status


def _tend(spec: OutboxSpec, snapshot: OutboxSnapshot, now: datetime) -> Tend | None:
    if diagnosis.database_condition(snapshot.database).is_false:
        return None
    last, seconds = instant_or_none(snapshot.status.get("tendedAt")), TEND_SECONDS
    if snapshot.tended is not None:
        last, seconds = snapshot.tended.at, TEND_SECONDS if snapshot.tended.trouble is None else TEND_AGAIN_SECONDS
    # An instant far ahead was written by a clock that was wrong.
    due = last is None or abs(now - last) >= timedelta(seconds=seconds)
    return Tend(component="outbox", keep_days=spec.sent_days) if due else None


def _history_tended(snapshot: OutboxSnapshot) -> Condition:
    kind, tended = "HistoryTended", snapshot.tended
    if tended is not None and tended.trouble is not None:
        text = f"what was sent is neither pruned nor given its next partitions: {tended.trouble.message}"
        return no(kind, tended.trouble.reason, text)
    if tended is None and instant_or_none(snapshot.status.get("tendedAt")) is None:
        return unknown(kind, "NotTendedYet", "the history was not tended yet")
    return yes(kind, "Tended", "what was sent is pruned, and its next partitions are made")


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

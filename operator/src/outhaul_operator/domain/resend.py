"""What is to be done about a Resend: send the rows that a person chose, once, as soon as that can succeed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from outhaul_operator.domain import diagnosis, once
from outhaul_operator.plan import AlertChange, JobRequest, Plan
from outhaul_operator.requests import ResendRun
from outhaul_operator.snapshot import BrokerView, OutboxDatabase, ResendSnapshot, Trouble
from outhaul_operator.specs import OutboxSpec, ResendSpec, Target

_DEADLINE_SECONDS = 6 * 3600


def plan(spec: ResendSpec, snapshot: ResendSnapshot, now: datetime) -> Plan:
    """Decide. The same snapshot with the status of this plan gives the same status, and no Job or event again."""
    outbox = snapshot.outbox
    runs = snapshot.database.runs if isinstance(snapshot.database, OutboxDatabase) else None
    errand = once.Errand(
        against=_against(spec, snapshot),
        request=(lambda name: _request(spec, outbox, snapshot.target, name))
        if isinstance(outbox, OutboxSpec)
        else None,
        told=lambda counts: _told(spec, counts),
    )
    return once.plan(snapshot, errand, runs, now)


def run_ids(target: Target, status: Mapping[str, Any]) -> tuple[str, ...]:
    """The runs whose records a look has to bring."""
    return once.run_ids(target, status)


def gone(_target: Target, _status: Mapping[str, Any]) -> tuple[AlertChange, ...]:
    """It has no alerts: how it ended stands on it."""
    return ()


def _against(spec: ResendSpec, snapshot: ResendSnapshot) -> Trouble | None:
    outbox, namespace = snapshot.outbox, snapshot.target.namespace
    if outbox is None:
        text = f"there is no Outbox {spec.outbox} in namespace {namespace}; create it, or delete this Resend"
        return Trouble("OutboxMissing", text)
    if isinstance(outbox, Trouble):
        return Trouble(outbox.reason, f"Outbox {spec.outbox}: {outbox.message}")
    against = diagnosis.obstacle(snapshot.database, snapshot.broker) or _blocked(spec, snapshot)
    if against is not None:
        return Trouble(against.reason, f"waits for Outbox {spec.outbox}: {against.message}")
    return None


def _blocked(spec: ResendSpec, snapshot: ResendSnapshot) -> Trouble | None:
    """Why none of the rows it may mean can be sent; which ones it means is known for parked rows alone."""
    database, broker = snapshot.database, snapshot.broker
    if not isinstance(database, OutboxDatabase) or not isinstance(broker, BrokerView):
        return None
    routes = [route for route in database.routes if route.parked or not spec.parked]
    causes = [diagnosis.blocked_route(route, broker) for route in routes]
    return causes[0] if causes and all(causes) else None


def _request(spec: ResendSpec, outbox: OutboxSpec, target: Target, name: str) -> JobRequest:
    return JobRequest(
        name=name,
        run=ResendRun(
            max_attempts=outbox.resend.max_attempts,
            message_ids=spec.message_ids,
            created_between=spec.created_between,
            parked=spec.parked,
        ),
        database=outbox.database,
        broker=outbox.broker,
        actor=f"outhaul-operator: {target}",
        deadline_seconds=_DEADLINE_SECONDS,
    )


def _told(spec: ResendSpec, counts: once.Counts) -> str:
    sent = counts.get("sent", 0)
    parts = [f"{sent} of {len(spec.message_ids)} sent" if spec.message_ids else f"{sent} sent"]
    parts += [f"{counts[name]} {words}" for name, words in _LEFT.items() if counts.get(name)]
    return ", ".join(parts)


_LEFT = {
    "not_routed": "without a route",
    "refused_by_queue": "refused by a full queue",
    "refused": "refused by the broker",
    "parked": "parked again",
    "unknown": "without an answer",
}

"""Objects and looks of the operator's suites, calm unless told otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, settings

from outhaul.broker_admin.depths import Depth, Depths
from outhaul.database.outbox_store import Counts
from outhaul.database.runs import Run
from outhaul.tools.status import LiveSender
from outhaul_operator.outcomes import RunReport
from outhaul_operator.plan import Plan
from outhaul_operator.snapshot import (
    BrokerView,
    InboxDatabase,
    InboxSnapshot,
    JobView,
    OutboxDatabase,
    OutboxSnapshot,
    Trouble,
    WaitingRoute,
)
from outhaul_operator.specs import BrokerRef, InboxSpec, OutboxSpec, SecretRef, Target

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
UID = "0a1b2c3d-4e5f-6789-abcd-ef0123456789"
SENDER = LiveSender(UUID(int=1), "order", "host-1", "1", "connected", NOW, NOW)
MUTE_SENDER = SENDER._replace(state="unreachable: connection refused")
ROUTE = ("outhaul.events", "order.created")
CALM_BROKER = BrokerView(version="4.3.6")
AWAY = Trouble("Unreachable", "database at db:5432: connection refused; check that PostgreSQL runs")

# A machine that others use too may take its time over one example.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SECRETS = {"database": SecretRef(name="shop-database"), "broker": BrokerRef(name="shop-broker")}
OUTBOX = OutboxSpec(**SECRETS)  # type: ignore[arg-type] # the mapping holds both by their right names
INBOX = InboxSpec(**SECRETS, consumer="waybill", queue="shop.waybill")  # type: ignore[arg-type] # as above


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def target(kind: str = "Outbox", **changes: Any) -> Target:
    given = {"namespace": "shop", "name": "orders", "uid": UID, "generation": 1, "resource_version": "7", **changes}
    return Target(kind=kind, **given)


def database(stuck: int = 0, *, parked: int = 0, pending: int | None = None, **changes: Any) -> OutboxDatabase:
    waiting = stuck if pending is None else pending
    at = changes.pop("at", NOW)
    oldest = changes.pop("oldest_at", NOW - timedelta(seconds=200) if waiting else None)
    counts = Counts(waiting, stuck, 0, stuck, parked, oldest, at)
    route = (WaitingRoute(*ROUTE, rows=waiting, stuck=stuck),) if waiting else ()
    return OutboxDatabase(counts=counts, **{"routes": route, **changes})


def outbox(stuck: int = 0, **changes: Any) -> OutboxSnapshot:
    given = {"target": target(), "database": database(stuck), "broker": CALM_BROKER, **changes}
    return OutboxSnapshot(**given)


def inbox(**changes: Any) -> InboxSnapshot:
    broker = BrokerView(version="4.3.6", depths=queues())
    return InboxSnapshot(
        **{"target": target("Inbox", name="waybill"), "database": InboxDatabase(at=NOW), "broker": broker, **changes}
    )


def queues(*, ready: int = 0, dead: int | None = 0, consumers: int = 1, unlettered: int = 0) -> Depths:
    name = INBOX.queue
    main = Depth(name=name, ready=ready, unacked=0, awaiting_dead_lettering=unlettered, consumers=consumers)
    letters = None
    if dead is not None:
        letters = Depth(name=f"{name}.dlq", ready=dead, unacked=0, awaiting_dead_lettering=0, consumers=0)
    return Depths(main=main, dead=letters)


def job(name: str, state: Any = "active", *, sent: int | None = None, **changes: Any) -> JobView:
    result = None if sent is None else RunReport(counts={"sent": sent})
    return JobView(name=name, state=state, **{"result": result, **changes})


def run(run_id: str, state: str = "running", *, detail: str | None = None, **counts: int) -> Run:
    return Run(
        run_id=run_id,
        kind="resend",
        actor="test",
        request={},
        state=state,
        counts=counts,
        detail=detail,
        started_at=NOW,
        finished_at=None,
    )


def condition(plan: Plan | Mapping[str, Any], kind: str) -> dict[str, Any]:
    status = plan.status if isinstance(plan, Plan) else plan
    [found] = [each for each in status["conditions"] if each["type"] == kind]
    return dict(found)


def reasons(plan: Plan) -> list[str]:
    return [event.reason for event in plan.events]


def firing(plan: Plan) -> set[str]:
    return {alert.name for alert in plan.alerts if alert.firing}


def names(plan: Plan) -> list[str]:
    return [request.name for request in plan.jobs]

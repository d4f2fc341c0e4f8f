from dataclasses import replace
from typing import Any

import pytest

from operator_support import (
    AWAY,
    CALM_BROKER,
    MUTE_SENDER,
    NOW,
    OUTBOX,
    ROUTE,
    SENDER,
    condition,
    database,
    names,
    outbox,
    reasons,
    target,
)
from outhaul.broker_admin.topology_diff import Difference
from outhaul.tools.findings import Finding, Level
from outhaul_operator.domain import blocked
from outhaul_operator.domain.outbox import plan
from outhaul_operator.snapshot import BrokerView, Trouble, WaitingRoute
from outhaul_operator.specs import TopologyRef

EXCHANGE, KEY = ROUTE
STANDBY = Finding(
    "outbox database", Level.PROBLEM, "PostgreSQL 18 is a standby: nothing can be written", "connect to the primary"
)
OLD_TRANSACTION = Finding(
    "outbox vacuum",
    Level.WARNING,
    "a transaction of app (psql, pid 42, idle in transaction) is open since 2026-06-01T11:00:00Z",
    "end it where it was begun, or: SELECT pg_terminate_backend(42)",
)

# What was seen, and of it: the condition that tells, its reason, words of cause and remedy.
CAUSES = [
    pytest.param({"database": AWAY, "broker": None}, "DatabaseReachable", "Unreachable", "connection refused", id="db"),
    pytest.param(
        {"database": Trouble("CredentialsRefused", "password of role outhaul is refused; mend the Secret shop")},
        "DatabaseReachable",
        "CredentialsRefused",
        "mend the Secret",
        id="database password",
    ),
    pytest.param(
        {"database": Trouble("SchemaMissing", "it has no table outbox; run: outhaul schema apply --component outbox")},
        "DatabaseReachable",
        "SchemaMissing",
        "outhaul schema apply",
        id="schema",
    ),
    pytest.param(
        {"database": database(5, findings=(STANDBY,))},
        "DatabaseReachable",
        "ReadOnly",
        "connect to the primary",
        id="read-only",
    ),
    pytest.param(
        {"broker": Trouble("Unreachable", "broker at mq:5672: connection refused; check that RabbitMQ runs")},
        "BrokerReachable",
        "Unreachable",
        "check that RabbitMQ runs",
        id="broker",
    ),
    pytest.param(
        {"broker": Trouble("CredentialsRefused", "login refused; check user and password of Secret shop-broker")},
        "BrokerReachable",
        "CredentialsRefused",
        "check user and password",
        id="broker password",
    ),
    pytest.param(
        {"broker": replace(CALM_BROKER, alarms=("node rabbit@a has a memory alarm; consume, or give it more memory",))},
        "BrokerReachable",
        "BrokerAlarm",
        "give it more memory",
        id="alarm",
    ),
    pytest.param(
        {"broker": replace(CALM_BROKER, missing_exchanges=frozenset({EXCHANGE}))},
        "Routable",
        "ExchangeMissing",
        "exchange outhaul.events does not exist; run `outhaul topology apply`",
        id="exchange",
    ),
    pytest.param(
        {"broker": replace(CALM_BROKER, unrouted=frozenset({ROUTE}))},
        "Routable",
        "NoQueueBound",
        "exchange outhaul.events has no queue bound for order.created; run `outhaul topology apply`",
        id="binding",
    ),
]


@pytest.mark.parametrize(("seen", "kind", "reason", "words"), CAUSES)
def test_a_cause_is_told_and_no_job_is_started_into_it(
    seen: dict[str, Any], kind: str, reason: str, words: str
) -> None:
    planned = plan(OUTBOX, outbox(5, **seen), NOW)
    found = condition(planned, kind)
    assert (found["status"], found["reason"]) == ("False", reason)
    assert words in found["message"]
    assert not planned.jobs
    assert reason in reasons(planned)
    assert any(words in event.message for event in planned.events)
    ready = condition(planned, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", reason)


@pytest.mark.parametrize(("seen", "kind", "reason", "words"), CAUSES)
def test_a_job_is_started_as_soon_as_the_cause_is_gone(
    seen: dict[str, Any], kind: str, reason: str, words: str
) -> None:
    before = plan(OUTBOX, outbox(5, **seen), NOW)
    healed = plan(OUTBOX, outbox(5, status=before.status), NOW)
    assert names(healed) == ["outbox-0a1b2c3d-g1-r1-0"]
    assert condition(healed, kind)["status"] == "True"
    assert kind in reasons(healed)


def test_a_living_sender_that_is_slow_is_left_to_its_work() -> None:
    planned = plan(OUTBOX, outbox(database=database(5, senders=(MUTE_SENDER, SENDER))), NOW)
    assert not planned.jobs
    draining = condition(planned, "Draining")
    assert (draining["status"], draining["reason"]) == ("True", "SenderAtWork")
    assert "order on host-1 is alive" in draining["message"]


def test_a_sender_that_lives_and_cannot_send_does_not_keep_a_job_from_it() -> None:
    planned = plan(OUTBOX, outbox(database=database(5, senders=(MUTE_SENDER,))), NOW)
    assert names(planned) == ["outbox-0a1b2c3d-g1-r1-0"]
    [started] = planned.events
    assert "order on host-1 is alive and sends nothing (unreachable: connection refused)" in started.message


def test_what_holds_back_vacuum_is_told_and_does_not_keep_a_job_from_sending() -> None:
    planned = plan(OUTBOX, outbox(database=database(5, findings=(OLD_TRANSACTION,))), NOW)
    found = condition(planned, "DatabaseReachable")
    assert (found["status"], found["reason"]) == ("True", "VacuumHeldBack")
    assert "pg_terminate_backend(42)" in found["message"]
    assert "VacuumHeldBack" in reasons(planned)
    assert planned.jobs
    again = plan(OUTBOX, outbox(database=database(5, findings=(OLD_TRANSACTION,)), status=planned.status), NOW)
    assert "VacuumHeldBack" not in reasons(again)


def test_a_setting_that_stays_as_it_is_does_not_hide_what_comes_to_hold_back_vacuum() -> None:
    unsafe = Finding("outbox durability", Level.WARNING, "fsync is off", "set fsync = on")
    calm = plan(OUTBOX, outbox(database=database(0, findings=(unsafe,))), NOW)
    assert reasons(calm) == ["NotDurable"]
    later = plan(OUTBOX, outbox(database=database(0, findings=(unsafe, OLD_TRANSACTION)), status=calm.status), NOW)
    assert reasons(later) == ["VacuumHeldBack"]
    assert "fsync is off" in condition(later, "DatabaseReachable")["message"]


def test_rows_of_a_good_route_are_sent_although_another_is_broken() -> None:
    routes = (WaitingRoute(*ROUTE, rows=900, stuck=900), WaitingRoute(EXCHANGE, "order.paid", rows=1100, stuck=1100))
    seen = outbox(database=database(2000, routes=routes), broker=replace(CALM_BROKER, unrouted=frozenset({ROUTE})))
    many = replace(OUTBOX, resend=replace(OUTBOX.resend, max_parallel_jobs=10))
    planned = plan(many, seen, NOW)
    assert len(planned.jobs) == 2  # of 1000 rows each, for the 1100 that can be sent
    assert condition(planned, "Routable")["reason"] == "NoQueueBound"


def test_without_the_management_api_a_job_finds_out_by_itself() -> None:
    blind = BrokerView(version="4.3.6", unseen=Trouble("NoManagementUrl", "add the entry management-url"))
    planned = plan(OUTBOX, outbox(5, broker=blind), NOW)
    assert planned.jobs
    assert condition(planned, "Routable")["status"] == "Unknown"
    assert "management-url" in condition(planned, "BrokerReachable")["message"]
    assert condition(planned, "Ready")["status"] == "True"


def test_drift_from_the_declared_topology_is_told() -> None:
    missing = Difference("missing-policy", "q", "policy q is missing: queue q has no limits", repairable=True)
    extra = Difference("extra-binding", "q", "queue q is also bound to e by 'x', undeclared", harmless=True)
    declared = replace(OUTBOX, topology=TopologyRef(name="outhaul-topology"))

    def found(*differences: Difference) -> dict[str, Any]:
        seen = outbox(broker=replace(CALM_BROKER, differences=differences))
        return condition(plan(declared, seen, NOW), "TopologyInSync")

    assert (found()["status"], found()["reason"]) == ("True", "InSync")
    assert found(extra)["status"] == "True"
    assert "also bound" in found(extra)["message"]
    assert found(extra, missing)["status"] == "False"
    assert (
        found(extra, missing)["message"] == "policy q is missing: queue q has no limits; run `outhaul topology apply`"
    )


@pytest.mark.parametrize(
    ("broker", "reason"),
    [
        (Trouble("Unreachable", "broker away"), "BrokerNotSeen"),
        (replace(CALM_BROKER, differences=Trouble("TopologyMissing", "ConfigMap t: not found")), "TopologyMissing"),
        (replace(CALM_BROKER, unseen=Trouble("ManagementNotGiven", "add management-url")), "ManagementNotGiven"),
        (CALM_BROKER, "NotCompared"),
    ],
)
def test_a_topology_that_cannot_be_compared_is_unknown_and_says_why(broker: Any, reason: str) -> None:
    declared = replace(OUTBOX, topology=TopologyRef(name="outhaul-topology"))
    found = condition(plan(declared, outbox(broker=broker), NOW), "TopologyInSync")
    assert (found["status"], found["reason"]) == ("Unknown", reason)
    assert found["message"]


def test_an_object_about_which_nothing_can_be_decided_says_why_once() -> None:
    before = plan(OUTBOX, outbox(5), NOW).status
    forbidden = Trouble("Forbidden", "the operator may not list Jobs; grant it the verb list on jobs")
    told = blocked.plan(target(), before, forbidden, NOW)
    assert condition(told, "Ready")["message"] == forbidden.message
    assert (told.status["resend"], told.status["stuck"]) == (before["resend"], 5)
    assert not told.jobs
    assert reasons(told) == ["Forbidden"]
    again = blocked.plan(target(), told.status, forbidden, NOW)
    assert again.status == told.status
    assert not again.events


def test_a_topology_that_nobody_declared_does_not_keep_an_outbox_from_being_ready() -> None:
    planned = plan(OUTBOX, outbox(), NOW)
    assert condition(planned, "TopologyInSync")["status"] == "Unknown"
    assert condition(planned, "Ready")["status"] == "True"


def test_parked_rows_are_told_by_an_outbox_that_is_ready() -> None:
    seen = outbox(database=database(parked=2, parked_reasons=(("PRECONDITION_FAILED", 2),)))
    ready = condition(plan(OUTBOX, seen, NOW), "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "RowsParked")
    assert "2 rows: PRECONDITION_FAILED" in ready["message"]

"""Resend and Redrive: what a person asks for is done once."""

from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from operator_support import (
    AWAY,
    CALM_BROKER,
    INBOX,
    NOW,
    OUTBOX,
    ROUTE,
    after,
    condition,
    database,
    job,
    names,
    queues,
    reasons,
    run,
    target,
)
from outhaul.errors import ConfigurationError
from outhaul.tools.letters import Filter
from outhaul_operator.domain import once, redrive, resend
from outhaul_operator.outcomes import RunReport
from outhaul_operator.plan import Plan
from outhaul_operator.requests import RedriveRun, ResendRun
from outhaul_operator.snapshot import (
    BrokerView,
    InboxDatabase,
    RedriveSnapshot,
    ResendSnapshot,
    Seen,
    Trouble,
    WaitingRoute,
)
from outhaul_operator.specs import RedriveSpec, ResendSpec

PARKED = ResendSpec(outbox="orders", parked=True)
REDRIVE = RedriveSpec(inbox="waybill")
NAME = "resend-0a1b2c3d-g1"
REDRIVE_NAME = "redrive-0a1b2c3d-g1"


def asked(**changes: Any) -> ResendSnapshot:
    given = {"target": target("Resend", name="again"), "outbox": OUTBOX, "database": database(parked=5)}
    return ResendSnapshot(**{**given, "broker": CALM_BROKER, **changes})


def letters(**changes: Any) -> RedriveSnapshot:
    given = {"target": target("Redrive", name="back"), "inbox": INBOX, "database": InboxDatabase(at=NOW)}
    return RedriveSnapshot(**{**given, "broker": BrokerView(depths=queues(dead=3)), **changes})


def begun() -> Plan:
    planned = resend.plan(PARKED, asked(), NOW)
    assert names(planned) == [NAME]
    return planned


def ended(state: str = "succeeded", *, at: datetime = NOW, **changes: Any) -> Plan:
    return resend.plan(PARKED, asked(status=begun().status, jobs=(job(NAME, state, **changes),)), at)


def test_a_resend_is_in_the_status_before_its_job() -> None:
    planned = begun()
    assert (planned.status["phase"], planned.status["job"]) == ("Running", NAME)
    assert planned.status["startedAt"] == "2026-06-01T12:00:00Z"
    [request] = planned.jobs
    assert request.run == ResendRun(max_attempts=5, parked=True)
    assert reasons(planned) == ["Started"]
    assert condition(planned, "Complete")["status"] == "Unknown"


def test_a_resend_carries_over_what_a_person_chose() -> None:
    ids = (UUID(int=1), UUID(int=2))
    [request] = resend.plan(ResendSpec(outbox="orders", message_ids=ids), asked(), NOW).jobs
    assert request.run == ResendRun(max_attempts=5, message_ids=ids)
    between = (NOW, after(60))
    [request] = resend.plan(ResendSpec(outbox="orders", created_between=between), asked(), NOW).jobs
    assert request.run == ResendRun(max_attempts=5, created_between=between)


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"outbox": None}, "OutboxMissing", "there is no Outbox orders in namespace shop; create it"),
        ({"outbox": Trouble("InvalidSpec", "spec.interval='1s': ...")}, "InvalidSpec", "Outbox orders: spec.interval"),
        ({"database": AWAY}, "Unreachable", "waits for Outbox orders: database at db:5432"),
        ({"broker": Trouble("Unreachable", "broker away")}, "Unreachable", "waits for Outbox orders: broker away"),
        ({"broker": replace(CALM_BROKER, alarms=("disk alarm",))}, "BrokerAlarm", "disk alarm"),
        ({"database": None, "broker": None}, "NotLookedAt", "not looked at"),
        ({"slots_free": 0}, "WaitsForOtherJobs", "OUTHAUL_OPERATOR_MAX_JOBS"),
        (
            {
                "database": database(parked=5, routes=(WaitingRoute(*ROUTE, rows=0, stuck=0, parked=5),)),
                "broker": replace(CALM_BROKER, unrouted=frozenset({ROUTE})),
            },
            "NoQueueBound",
            "exchange outhaul.events has no queue bound for order.created",
        ),
    ],
)
def test_a_resend_that_cannot_succeed_waits_and_says_for_what(changes: Any, reason: str, words: str) -> None:
    waiting = resend.plan(PARKED, asked(**changes), NOW)
    assert not waiting.jobs
    assert waiting.status["phase"] == "Pending"
    assert "job" not in waiting.status
    found = condition(waiting, "Progressing")
    assert (found["status"], found["reason"]) == ("False", reason)
    assert words in found["message"]
    assert waiting.status["message"] == found["message"]
    assert reasons(waiting) == [reason]
    again = resend.plan(PARKED, asked(**changes, status=waiting.status), after(10))
    assert again.status == waiting.status
    assert not again.events
    assert names(resend.plan(PARKED, asked(status=waiting.status), after(20))) == [NAME]


def test_a_resend_goes_on_while_only_some_of_the_routes_are_broken() -> None:
    routes = (WaitingRoute(*ROUTE, rows=0, stuck=0, parked=5), WaitingRoute("e", "k", rows=0, stuck=0, parked=1))
    seen = asked(database=database(routes=routes), broker=replace(CALM_BROKER, missing_exchanges=frozenset({"e"})))
    assert names(resend.plan(PARKED, seen, NOW)) == [NAME]


def test_progress_is_told_from_the_record_of_the_run() -> None:
    recorded = database(parked=5, runs={NAME: run(NAME, sent=3, not_routed=1)})
    seen = asked(status=begun().status, jobs=(job(NAME),), database=recorded)
    planned = resend.plan(PARKED, seen, after(5))
    assert planned.status["progress"] == "3 sent, 1 without a route"
    assert planned.status["phase"] == "Running"
    assert not planned.jobs


def test_a_resend_that_succeeded_says_what_it_did_and_is_never_done_again() -> None:
    planned = ended(sent=5, at=after(10))
    assert (planned.status["phase"], planned.status["progress"]) == ("Succeeded", "5 sent")
    assert planned.status["finishedAt"] == "2026-06-01T12:00:10Z"
    assert condition(planned, "Complete")["status"] == "True"
    assert condition(planned, "Failed")["status"] == "False"
    assert planned.expire == (NAME,)
    assert reasons(planned) == ["Succeeded"]
    gone = resend.plan(PARKED, asked(status=planned.status), after(9999))
    assert not gone.jobs
    assert not gone.events
    assert gone.status == planned.status


def test_a_resend_that_failed_says_why_and_is_never_done_again() -> None:
    report = RunReport(reason="NotTaken", message="exchange e has no queue bound for k", counts={"sent": 1})
    planned = ended("failed", result=report, reason="PodFailurePolicy", message="exit code 69")
    assert (planned.status["phase"], planned.status["message"]) == ("Failed", report.message)
    assert condition(planned, "Failed")["reason"] == "NotTaken"
    [event] = planned.events
    assert event.message == "1 sent; exchange e has no queue bound for k"
    assert not resend.plan(PARKED, asked(status=planned.status), after(9999)).jobs


def test_a_job_that_failed_without_a_word_is_told_with_where_to_look() -> None:
    assert "kubectl describe job resend-0a1b2c3d-g1" in ended("failed").status["message"]
    assert ended("failed", message="Job was active longer than its deadline").status["message"].startswith("Job was")


def test_a_job_that_is_gone_is_made_again_under_its_name_unless_its_run_is_over() -> None:
    assert names(resend.plan(PARKED, asked(status=begun().status), after(5))) == [NAME]
    done = database(runs={NAME: run(NAME, "done", sent=5)})
    planned = resend.plan(PARKED, asked(status=begun().status, database=done), after(5))
    assert not planned.jobs
    assert planned.status["phase"] == "Succeeded"
    failed = database(runs={NAME: run(NAME, "failed", detail="broker away")})
    planned = resend.plan(PARKED, asked(status=begun().status, database=failed), after(5))
    assert not planned.jobs
    assert (planned.status["phase"], planned.status["message"]) == ("Failed", "broker away")


def test_a_resend_that_lost_its_status_is_not_done_again() -> None:
    done = database(runs={NAME: run(NAME, "done", sent=5)})
    planned = resend.plan(PARKED, asked(database=done), after(5))
    assert not planned.jobs
    assert planned.status["phase"] == "Succeeded"


def test_a_job_that_is_gone_is_not_made_again_before_its_record_can_be_read() -> None:
    planned = resend.plan(PARKED, asked(status=begun().status, database=AWAY), after(5))
    assert not planned.jobs
    assert planned.status["phase"] == "Running"
    assert "connection refused" in planned.status["message"]


def test_a_resend_whose_outbox_was_deleted_meanwhile_says_so_and_its_job_goes_on() -> None:
    running = asked(status=begun().status, outbox=None, database=None, broker=None, jobs=(job(NAME),))
    planned = resend.plan(PARKED, running, after(5))
    assert planned.status["phase"] == "Running"
    lost = resend.plan(PARKED, replace(running, jobs=()), after(5))
    assert not lost.jobs
    assert condition(lost, "Progressing")["reason"] == "OutboxMissing"
    over = resend.plan(PARKED, replace(running, jobs=(job(NAME, "succeeded", sent=5),)), after(10))
    assert over.status["phase"] == "Succeeded"


def test_the_name_decided_stays_whatever_becomes_of_the_generation() -> None:
    later = asked(status=begun().status, target=target("Resend", generation=2))
    assert names(resend.plan(PARKED, later, after(5))) == [NAME]
    assert resend.run_ids(later.target, later.status) == (NAME,)


def test_a_pod_that_cannot_start_is_told_on_the_resend() -> None:
    view = job(NAME, reason="Unschedulable", message="0/3 nodes are available")
    planned = resend.plan(PARKED, asked(status=begun().status, jobs=(view,)), after(5))
    assert planned.status["message"] == f"Job {NAME}: 0/3 nodes are available"


def test_nothing_is_looked_for_once_it_is_final() -> None:
    assert once.is_final({"phase": "Failed"})
    assert resend.run_ids(target("Resend"), {"phase": "Failed"}) == ()
    assert not once.is_final({})


def test_a_resend_that_is_being_deleted_is_left_alone() -> None:
    assert resend.plan(PARKED, asked(target=target("Resend", deleting=True)), NOW) == Plan(status={})


def test_a_redrive_carries_over_what_a_person_chose() -> None:
    spec = replace(
        REDRIVE, filter=Filter(reasons=("malformed",)), limit=5, rate_per_second=2, discard_reason="test data"
    )
    [request] = redrive.plan(spec, letters(), NOW).jobs
    assert request.name == REDRIVE_NAME
    assert request.run == RedriveRun(
        queue="shop.waybill",
        consumer="waybill",
        filter=Filter(reasons=("malformed",)),
        limit=5,
        rate_per_second=2,
        discard_reason="test data",
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (REDRIVE, "2 moved, of 3 dead letters seen, 1 left, for the inbox may have forgotten their effect"),
        (replace(REDRIVE, dry_run=True), "2 would be moved, of 3 dead letters seen"),
        (replace(REDRIVE, discard_reason="x"), "2 discarded, of 3 dead letters seen"),
        (replace(REDRIVE, discard_reason="x", dry_run=True), "2 would be discarded, of 3 dead letters seen"),
    ],
)
def test_a_redrive_says_what_it_did(spec: RedriveSpec, words: str) -> None:
    first = redrive.plan(spec, letters(), NOW)
    report = RunReport(counts={"moved": 2, "seen": 3, "too_old": 1})
    done = letters(status=first.status, jobs=(job(REDRIVE_NAME, "succeeded", result=report),))
    planned = redrive.plan(spec, done, after(5))
    assert planned.status["progress"].startswith(words)
    assert planned.status["counts"] == report.counts
    assert not redrive.plan(spec, replace(done, status=planned.status, jobs=()), after(60)).jobs


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"inbox": None}, "InboxMissing", "there is no Inbox waybill in namespace shop"),
        ({"inbox": Trouble("InvalidSpec", "spec.queue=''")}, "InvalidSpec", "Inbox waybill"),
        ({"database": AWAY}, "Unreachable", "waits for Inbox waybill"),
        (
            {"broker": BrokerView(depths=queues(dead=None))},
            "DeadLetterQueueMissing",
            "queue shop.waybill.dlq does not exist",
        ),
        (
            {"broker": BrokerView(depths=replace(queues(dead=1), main=None))},
            "QueueMissing",
            "queue shop.waybill does not exist",
        ),
    ],
)
def test_a_redrive_that_cannot_succeed_waits_and_says_for_what(changes: Any, reason: str, words: str) -> None:
    waiting = redrive.plan(REDRIVE, letters(**changes), NOW)
    assert not waiting.jobs
    assert condition(waiting, "Progressing")["reason"] == reason
    assert words in waiting.status["message"]
    assert names(redrive.plan(REDRIVE, letters(status=waiting.status), after(10))) == [REDRIVE_NAME]


def test_letters_can_be_discarded_although_the_queue_they_came_from_is_gone() -> None:
    spec = replace(REDRIVE, discard_reason="the consumer is retired")
    assert redrive.plan(spec, letters(broker=BrokerView(depths=replace(queues(dead=1), main=None))), NOW).jobs


def test_a_slow_redrive_is_given_the_time_it_needs() -> None:
    [request] = redrive.plan(replace(REDRIVE, limit=10_000, rate_per_second=1), letters(), NOW).jobs
    assert request.deadline_seconds >= 10_000


ODD = ConfigurationError("spec.filter.olderThan", "100h", "nothing is older than that and newer than 1d")


def test_a_spec_that_cannot_be_read_nor_changed_has_failed_and_says_to_create_another() -> None:
    told = once.by_spec(Seen(target=target("Redrive", name="back")), ODD, NOW)
    assert told.status["phase"] == "Failed"
    assert "create another" in told.status["message"]
    assert condition(told, "Failed")["reason"] == "InvalidSpec"
    assert reasons(told) == ["Failed"]
    again = once.by_spec(Seen(target=target("Redrive", name="back"), status=told.status), ODD, after(9))
    assert again.status == told.status
    assert not again.events


def test_a_spec_that_cannot_be_read_any_more_takes_nothing_from_what_was_decided_before() -> None:
    done = ended(sent=5)
    assert once.by_spec(asked(status=done.status), ODD, after(9)).status == done.status
    running = once.by_spec(asked(status=begun().status), ODD, after(9))
    assert running.status["phase"] == "Running"
    assert condition(running, "Progressing")["reason"] == "InvalidSpec"
    assert not running.jobs

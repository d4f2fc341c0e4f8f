from dataclasses import replace
from datetime import timedelta

import pytest

from operator_support import (
    AWAY,
    CALM_BROKER,
    NOW,
    OUTBOX,
    ROUTE,
    SENDER,
    after,
    condition,
    database,
    firing,
    job,
    names,
    outbox,
    reasons,
    run,
    target,
)
from outhaul.errors import ConfigurationError
from outhaul_operator.domain import blocked
from outhaul_operator.domain.outbox import ALARMS, gone, plan, run_ids
from outhaul_operator.outcomes import RunReport
from outhaul_operator.plan import Plan, Tend
from outhaul_operator.requests import ResendRun
from outhaul_operator.snapshot import OutboxSnapshot, Tended, Trouble, WaitingRoute

PARALLEL = replace(OUTBOX, resend=replace(OUTBOX.resend, max_parallel_jobs=3))
FIRST = "outbox-0a1b2c3d-g1-r1-0"


def started(stuck: int = 5) -> Plan:
    planned = plan(OUTBOX, outbox(stuck), NOW)
    assert names(planned) == [FIRST]
    return planned


def failed(before: Plan, at: float = 10) -> Plan:
    """The round of that plan, seen failed."""
    [name] = names(before)
    seen = job(name, "failed", result=RunReport(reason="Unreachable", message="broker away", counts={"sent": 0}))
    return plan(OUTBOX, outbox(5, status=before.status, jobs=(seen,), database=database(5, at=after(at))), after(at))


def test_an_outbox_at_rest_is_ready_and_stays_as_it_is() -> None:
    first = plan(OUTBOX, outbox(), NOW)
    assert condition(first, "Ready")["status"] == "True"
    assert not first.jobs
    assert not first.events
    later = plan(OUTBOX, outbox(status=first.status, database=database(at=after(60))), after(60))
    assert later.status == first.status
    assert not later.events


def test_the_status_tells_counts_and_instants_but_no_ages() -> None:
    status = plan(OUTBOX, outbox(database=database(2, pending=7, parked=1, senders=(SENDER,))), NOW).status
    assert {name: status[name] for name in ("pending", "stuck", "parked", "senders")} == {
        "pending": 7,
        "stuck": 2,
        "parked": 1,
        "senders": 1,
    }
    assert status["oldestAt"] == "2026-06-01T11:56:40Z"
    assert status["observedGeneration"] == 1
    emptied = plan(OUTBOX, outbox(status=status), NOW)
    assert "oldestAt" not in emptied.status


def test_a_round_stands_in_the_status_before_its_jobs() -> None:
    planned = started()
    assert planned.status["resend"] == {
        "round": 1,
        "generation": 1,
        "jobs": 1,
        "state": "Starting",
        "startedAt": "2026-06-01T12:00:00Z",
        "sent": 0,
        "failures": 0,
        "message": "",
    }
    [request] = planned.jobs
    assert request.run == ResendRun(limit=1000, max_attempts=5)
    assert request.database == OUTBOX.database
    assert reasons(planned) == ["ResendStarted"]
    assert run_ids(target(), planned.status) == (FIRST,)


@pytest.mark.parametrize(
    ("stuck", "slots_free", "jobs"), [(1, 10, 1), (1000, 10, 1), (1001, 10, 2), (10_000, 10, 3), (10_000, 2, 2)]
)
def test_a_round_has_as_many_jobs_as_the_backlog_and_the_bounds_allow(stuck: int, slots_free: int, jobs: int) -> None:
    assert len(plan(PARALLEL, outbox(stuck, slots_free=slots_free), NOW).jobs) == jobs


def test_without_a_free_slot_the_outbox_waits_for_its_turn() -> None:
    planned = plan(OUTBOX, outbox(5, slots_free=0), NOW)
    assert not planned.jobs
    assert "resend" not in planned.status
    assert condition(planned, "Draining")["reason"] == "WaitsForOtherJobs"


def test_an_outbox_that_is_being_drained_is_ready_and_says_so() -> None:
    ready = condition(started(), "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "Resending")


def test_a_database_and_a_broker_that_are_both_away_are_both_told() -> None:
    away = outbox(database=AWAY, broker=Trouble("CredentialsRefused", "login refused"))
    assert reasons(plan(OUTBOX, away, NOW)) == ["Unreachable", "CredentialsRefused"]


def test_a_switched_off_resend_is_told_with_what_else_helps() -> None:
    off = replace(OUTBOX, resend=replace(OUTBOX.resend, enabled=False))
    planned = plan(off, outbox(5), NOW)
    assert not planned.jobs
    assert condition(planned, "Draining")["reason"] == "ResendDisabled"
    assert "start the producer" in condition(planned, "Draining")["message"]


def test_a_job_that_was_not_made_yet_is_asked_for_again_under_its_name() -> None:
    before = started()
    again = plan(OUTBOX, outbox(5, status=before.status), after(5))
    assert names(again) == [FIRST]
    assert again.status == before.status
    assert not again.events


def test_a_job_that_disappeared_is_made_again_under_its_name_and_never_under_another() -> None:
    running = plan(OUTBOX, outbox(5, status=started().status, jobs=(job(FIRST),)), after(5))
    assert running.status["resend"]["state"] == "Running"
    assert not running.jobs
    again = plan(OUTBOX, outbox(5, status=running.status), after(10))
    assert names(again) == [FIRST]


def test_a_job_whose_run_is_on_record_as_done_is_not_made_again() -> None:
    recorded = database(5, at=after(10), runs={FIRST: run(FIRST, "done", sent=5)})
    planned = plan(OUTBOX, outbox(5, status=started().status, database=recorded), after(10))
    assert not planned.jobs
    assert (planned.status["resend"]["state"], planned.status["resend"]["sent"]) == ("Succeeded", 5)


def test_a_job_is_not_made_again_while_its_record_cannot_be_read() -> None:
    planned = plan(OUTBOX, outbox(status=started().status, database=AWAY, broker=None), after(10))
    assert not planned.jobs
    assert planned.status["resend"]["state"] == "Starting"


def test_a_decided_job_waits_while_something_would_make_it_fail() -> None:
    alarmed = replace(CALM_BROKER, alarms=("node a has a disk alarm; free disk space",))
    planned = plan(OUTBOX, outbox(5, status=started().status, broker=alarmed), after(5))
    assert not planned.jobs
    assert condition(planned, "Draining")["reason"] == "BrokerAlarm"
    assert names(plan(OUTBOX, outbox(5, status=planned.status), after(10))) == [FIRST]


def test_a_round_that_succeeded_tells_what_it_sent_and_lets_its_jobs_expire() -> None:
    done = outbox(status=started().status, jobs=(job(FIRST, "succeeded", sent=5),))
    planned = plan(OUTBOX, done, after(10))
    assert planned.status["resend"]["state"] == "Succeeded"
    assert planned.status["lastResend"] == "2026-06-01T12:00:10Z"
    assert planned.expire == (FIRST,)
    [event] = planned.events
    assert (event.type, event.reason, event.message) == ("Normal", "ResendSucceeded", "round 1 sent 5 rows")
    settled = plan(OUTBOX, replace(done, status=planned.status, jobs=(replace(done.jobs[0], expires=True),)), after(20))
    assert not settled.expire
    assert not settled.events


def test_the_jobs_of_a_round_do_not_expire_before_all_of_them_have_ended() -> None:
    first, second, third = names(plan(PARALLEL, outbox(3000), NOW))
    before = plan(PARALLEL, outbox(3000), NOW)
    views = (job(first, "succeeded", sent=1000), job(second), job(third, "succeeded", sent=1000))
    planned = plan(PARALLEL, outbox(3000, status=before.status, jobs=views), after(5))
    assert not planned.expire
    assert planned.status["resend"]["state"] == "Running"


def test_what_is_left_is_sent_by_the_next_round_at_once() -> None:
    jobs = (job(FIRST, "succeeded", sent=1000),)
    over = plan(OUTBOX, outbox(500, status=started(1500).status, jobs=jobs), after(10))
    assert not over.jobs  # those rows were counted before the Job was seen to have ended
    assert over.look_again_seconds == 1
    seen = outbox(status=over.status, jobs=jobs, database=database(500, at=after(11)))
    assert names(plan(OUTBOX, seen, after(11))) == ["outbox-0a1b2c3d-g1-r2-0"]


def test_a_failover_to_a_database_whose_clock_is_behind_holds_nothing_up() -> None:
    jobs = (job(FIRST, "succeeded", sent=5),)
    over = plan(OUTBOX, outbox(5, status=started().status, jobs=jobs), after(10))
    behind = outbox(status=over.status, jobs=jobs, database=database(5, at=after(-7200)))
    assert names(plan(OUTBOX, behind, after(20))) == ["outbox-0a1b2c3d-g1-r2-0"]


def test_a_round_that_failed_is_followed_after_a_pause_that_grows() -> None:
    one = failed(started())
    assert one.status["resend"]["failures"] == 1
    assert reasons(one) == ["ResendFailed"]
    assert "broker away" in condition(one, "Draining")["message"]
    assert "2026-06-01T12:01:10Z" in condition(one, "Draining")["message"]

    def next_look(before: Plan, at: float) -> Plan:
        return plan(OUTBOX, outbox(5, status=before.status, database=database(5, at=after(at))), after(at))

    early = next_look(one, 69)
    assert not early.jobs
    assert early.status == one.status
    assert early.look_again_seconds == pytest.approx(1)
    second = next_look(one, 71)
    assert names(second) == ["outbox-0a1b2c3d-g1-r2-0"]
    two = failed(second, 80)
    assert two.status["resend"]["failures"] == 2
    assert not next_look(two, 80 + 119).jobs
    assert next_look(two, 80 + 121).jobs


def test_instants_of_an_operator_whose_clock_was_hours_ahead_hold_nothing_up() -> None:
    ahead = failed(started(), at=7200)
    healed = outbox(5, status=ahead.status, database=database(5, at=after(60)))
    assert plan(OUTBOX, healed, after(60)).jobs
    away = plan(OUTBOX, outbox(database=AWAY), after(7200))
    assert firing(plan(OUTBOX, outbox(database=AWAY, status=away.status), NOW)) == {"OuthaulDatabaseUnreachable"}


def test_a_cause_that_is_found_explains_the_failures_so_that_healing_starts_jobs_at_once() -> None:
    one = failed(started())
    away = outbox(
        5, status=one.status, broker=Trouble("Unreachable", "broker away"), database=database(5, at=after(20))
    )
    told = plan(OUTBOX, away, after(20))
    assert told.status["resend"]["failures"] == 0
    healed = plan(OUTBOX, outbox(5, status=told.status, database=database(5, at=after(25))), after(25))
    assert names(healed) == ["outbox-0a1b2c3d-g1-r2-0"]


def test_a_round_whose_jobs_succeed_and_send_nothing_has_failed() -> None:
    seen = outbox(5, status=started().status, jobs=(job(FIRST, "succeeded", sent=0),))
    planned = plan(OUTBOX, seen, after(10))
    assert planned.status["resend"]["state"] == "Failed"
    assert "sent none of the rows" in planned.status["resend"]["message"]


def test_rows_of_a_broken_route_do_not_put_off_those_of_a_good_one() -> None:
    report = RunReport(reason="NotTaken", message="no queue is bound for order.paid", counts={"sent": 1000})
    routes = (WaitingRoute(*ROUTE, rows=500, stuck=500), WaitingRoute(ROUTE[0], "order.paid", rows=9, stuck=9))
    unbound = replace(CALM_BROKER, unrouted=frozenset({(ROUTE[0], "order.paid")}))
    seen = outbox(
        status=started(1500).status,
        jobs=(job(FIRST, "failed", result=report),),
        database=database(509, routes=routes),
        broker=unbound,
    )
    over = plan(OUTBOX, seen, after(10))
    assert (over.status["resend"]["state"], over.status["resend"]["failures"]) == ("Succeeded", 0)
    assert over.status["resend"]["message"] == report.message
    counted = replace(seen, status=over.status, database=database(509, routes=routes, at=after(11)))
    assert names(plan(OUTBOX, counted, after(11))) == ["outbox-0a1b2c3d-g1-r2-0"]


def test_a_round_that_a_sender_overtook_has_not_failed() -> None:
    planned = plan(OUTBOX, outbox(status=started().status, jobs=(job(FIRST, "succeeded", sent=0),)), after(10))
    assert planned.status["resend"]["state"] == "Succeeded"


def test_a_job_that_was_lost_after_its_run_was_done_counts_as_done() -> None:
    lost = job(FIRST, "failed", message="the pod was lost")
    recorded = database(0, runs={FIRST: run(FIRST, "done", sent=5)})
    planned = plan(OUTBOX, outbox(status=started().status, jobs=(lost,), database=recorded), after(10))
    assert planned.status["resend"]["state"] == "Succeeded"


def test_a_report_has_the_last_word_over_a_record_that_only_says_it_ended() -> None:
    report = RunReport(reason="NotTaken", message="no queue is bound", counts={"sent": 0, "not_routed": 5})
    recorded = database(5, runs={FIRST: run(FIRST, "done", sent=0)})
    seen = outbox(status=started().status, jobs=(job(FIRST, "failed", result=report),), database=recorded)
    planned = plan(OUTBOX, seen, after(10))
    assert planned.status["resend"]["state"] == "Failed"


def test_a_pod_that_cannot_start_is_told() -> None:
    view = job(FIRST, reason="ErrImagePull", message="no such image")
    planned = plan(OUTBOX, outbox(5, status=started().status, jobs=(view,)), after(10))
    assert (condition(planned, "Draining")["status"], condition(planned, "Draining")["reason"]) == (
        "False",
        "ErrImagePull",
    )


def test_a_job_the_api_server_refuses_is_told_and_asked_for_again() -> None:
    refused = Trouble("Forbidden", "exceeded quota: pods=10; raise the quota")
    planned = plan(OUTBOX, outbox(5, status=started().status, jobs_refused=refused), after(10))
    assert condition(planned, "Draining")["message"] == "exceeded quota: pods=10; raise the quota"
    assert names(planned) == [FIRST]


def test_a_changed_spec_does_not_rename_the_jobs_of_a_round_under_way() -> None:
    before = started()
    changed = outbox(5, status=before.status, target=target(generation=2))
    assert names(plan(OUTBOX, changed, after(5))) == [FIRST]
    over = plan(OUTBOX, replace(changed, jobs=(job(FIRST, "succeeded", sent=5),)), after(10))
    seen = outbox(status=over.status, target=target(generation=2), database=database(5, at=after(11)))
    assert names(plan(OUTBOX, seen, after(11))) == ["outbox-0a1b2c3d-g2-r2-0"]


def test_a_lost_status_does_not_use_the_name_of_a_job_again() -> None:
    old = job("outbox-0a1b2c3d-g1-r7-0", "succeeded", sent=5)
    planned = plan(OUTBOX, outbox(5, jobs=(old,)), NOW)
    assert names(planned) == ["outbox-0a1b2c3d-g1-r8-0"]


@pytest.mark.parametrize("nonsense", [{"round": "x"}, [], "running", {"round": 1}])
def test_a_status_that_somebody_broke_is_begun_anew(nonsense: object) -> None:
    assert names(plan(OUTBOX, outbox(5, status={"resend": nonsense}), NOW)) == [FIRST]


def test_an_object_that_is_being_deleted_is_left_alone() -> None:
    snapshot = outbox(5, target=target(deleting=True), status={"pending": 1})
    assert plan(OUTBOX, snapshot, NOW) == Plan(status={"pending": 1})


def test_the_last_counts_stay_while_the_database_is_away() -> None:
    before = plan(OUTBOX, outbox(database=database(3, senders=(SENDER,))), NOW).status
    away = plan(OUTBOX, outbox(status=before, database=AWAY, broker=None), after(30))
    assert (away.status["pending"], away.status["oldestAt"]) == (3, before["oldestAt"])
    assert condition(away, "Routable")["status"] == "Unknown"
    assert condition(away, "Draining")["status"] == "Unknown"


def test_history_is_tended_once_an_hour_and_not_while_nothing_can_be_written() -> None:
    first = plan(OUTBOX, outbox(), NOW)
    assert first.tend == Tend(component="outbox", keep_days=30)
    assert "tendedAt" not in first.status, "it is not done yet"
    done = plan(OUTBOX, outbox(status=first.status, tended=Tended(NOW)), after(1))
    assert done.tend is None
    assert plan(OUTBOX, outbox(status=done.status), after(3599)).tend is None
    assert plan(OUTBOX, outbox(status=done.status), after(3600)).tend is not None
    assert plan(OUTBOX, outbox(database=AWAY, broker=None), NOW).tend is None
    ahead = {**first.status, "tendedAt": "2031-01-01T00:00:00Z"}
    assert plan(OUTBOX, outbox(status=ahead), NOW).tend is not None


def test_people_are_told_of_old_and_parked_rows_and_when_it_is_over() -> None:
    old = database(3, parked=1, oldest_at=NOW - timedelta(seconds=301), parked_reasons=(("too large", 1),))
    planned = plan(OUTBOX, outbox(database=old, broker=replace(CALM_BROKER, unrouted=frozenset({ROUTE}))), NOW)
    assert firing(planned) == {"OuthaulOutboxStuck", "OuthaulParked"}
    [stuck] = [alert for alert in planned.alerts if alert.name == "OuthaulOutboxStuck"]
    assert stuck.labels == {"namespace": "shop", "outbox": "orders"}
    assert "has no queue bound for order.created" in stuck.description
    calm = plan(OUTBOX, outbox(status=planned.status), after(60))
    assert not firing(calm)
    assert {alert.name for alert in calm.alerts} >= {"OuthaulOutboxStuck", "OuthaulParked"}
    assert {(a.name, tuple(a.labels.items()), a.severity) for a in calm.alerts} >= {
        (a.name, tuple(a.labels.items()), a.severity) for a in planned.alerts
    }


def test_a_part_that_is_away_wakes_nobody_at_once_and_settles_nothing_about_the_rows() -> None:
    def away(status: object, at: float) -> OutboxSnapshot:
        return outbox(database=AWAY, broker=None, status=status, target=target())

    first = plan(OUTBOX, away({}, 0), NOW)
    assert not firing(first)
    later = plan(OUTBOX, away(first.status, 30), after(30))
    assert firing(later) == {"OuthaulDatabaseUnreachable"}
    assert "OuthaulOutboxStuck" not in {alert.name for alert in later.alerts}


def test_rounds_that_fail_again_and_again_are_an_alert() -> None:
    one = failed(started())
    assert "OuthaulResendFailing" not in firing(one)
    next_round = plan(OUTBOX, outbox(5, status=one.status, database=database(5, at=after(71))), after(71))
    two = failed(next_round, 80)
    assert "OuthaulResendFailing" in firing(two)


def test_a_deleted_outbox_takes_its_alerts_with_it() -> None:
    changes = gone(target(), {"alerts": {"OuthaulParked": "2026-06-01T11:00:00Z"}})
    assert {change.name for change in changes} == {alarm.name for alarm in ALARMS}
    assert not any(change.firing for change in changes)
    assert {change.name for change in changes if change.since} == {"OuthaulParked"}


def test_an_alert_that_was_on_before_a_restart_is_still_known_to_have_been_on() -> None:
    fired = plan(OUTBOX, outbox(database=database(parked=1)), NOW)
    assert fired.status["alerts"] == {"OuthaulParked": "2026-06-01T12:00:00Z"}
    away = plan(OUTBOX, outbox(status=fired.status, database=AWAY), after(10))
    assert away.status["alerts"] == fired.status["alerts"]  # nothing was seen that would settle it
    healed = plan(OUTBOX, outbox(status=away.status), after(20))
    assert healed.status["alerts"] == {}
    [change] = [change for change in healed.alerts if change.name == "OuthaulParked"]
    assert (change.firing, change.since) == (False, NOW)


def test_a_spec_that_cannot_be_read_is_told_once_and_changes_nothing_else() -> None:
    before = plan(OUTBOX, outbox(3), NOW).status
    error = ConfigurationError("spec.stuckAfter", "1s", "must be from 1m to 10000d")
    told = blocked.by_spec(target(generation=2), before, error, after(5))
    assert condition(told, "Ready")["reason"] == "InvalidSpec"
    assert "spec.stuckAfter='1s'" in condition(told, "Ready")["message"]
    assert told.status["pending"] == 3
    assert told.status["observedGeneration"] == 2
    assert reasons(told) == ["InvalidSpec"]
    again = blocked.by_spec(target(generation=2), told.status, error, after(9))
    assert again.status == told.status
    assert not again.events

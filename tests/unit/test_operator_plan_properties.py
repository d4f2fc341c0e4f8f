"""What holds of every plan, whatever was seen."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from operator_support import (
    AWAY,
    CALM_BROKER,
    INBOX,
    MUTE_SENDER,
    NOW,
    OUTBOX,
    ROUTE,
    SENDER,
    UID,
    UNHURRIED,
    after,
    database,
    inbox,
    names,
    outbox,
    queues,
    run,
    target,
)
from outhaul.tools.findings import Finding, Level
from outhaul_operator.domain import inbox as inboxes
from outhaul_operator.domain import outbox as outboxes
from outhaul_operator.domain import redrive, resend
from outhaul_operator.domain.rounds import Round
from outhaul_operator.jobs import job_name
from outhaul_operator.outcomes import RunReport
from outhaul_operator.plan import Plan
from outhaul_operator.snapshot import (
    BrokerView,
    DeadLetters,
    InboxDatabase,
    JobView,
    OutboxSnapshot,
    RedriveSnapshot,
    ResendSnapshot,
    Tended,
    Trouble,
    WaitingRoute,
)
from outhaul_operator.specs import RedriveSpec, ResendSpec

PARALLEL = replace(OUTBOX, resend=replace(OUTBOX.resend, max_parallel_jobs=3, batch_size=10))
TROUBLES = st.sampled_from([AWAY, Trouble("CredentialsRefused", "password refused")])
FINDINGS = st.lists(
    st.builds(
        Finding,
        st.sampled_from(["outbox database", "outbox schema", "outbox vacuum", "outbox partitions", "odd"]),
        st.sampled_from(list(Level)),
        st.just("what was seen"),
        st.sampled_from(["", "what helps"]),
    ),
    max_size=3,
).map(tuple)
BROKERS = st.sampled_from(
    [
        CALM_BROKER,
        replace(CALM_BROKER, alarms=("memory alarm",)),
        replace(CALM_BROKER, unrouted=frozenset({ROUTE})),
        replace(CALM_BROKER, missing_exchanges=frozenset({ROUTE[0]})),
        replace(CALM_BROKER, unseen=Trouble("ManagementNotGiven", "add management-url")),
        Trouble("Unreachable", "broker away"),
    ]
)
ROUND_JOBS = [job_name("outbox", UID, 1, f"r{number}", str(slot)) for number in (1, 2, 3) for slot in range(3)]
ONCE_JOBS = [job_name(kind, UID, 1) for kind in ("resend", "redrive")]
REPORTS = st.none() | st.builds(
    RunReport,
    reason=st.sampled_from(["", "NotTaken"]),
    message=st.sampled_from(["", "no queue is bound"]),
    counts=st.fixed_dictionaries({"sent": st.integers(0, 5)}),
    done_before=st.booleans(),
)


def job_lists(of: list[str]) -> st.SearchStrategy[tuple[JobView, ...]]:
    views = st.builds(
        JobView,
        name=st.sampled_from(of),
        state=st.sampled_from(["active", "succeeded", "failed"]),
        reason=st.sampled_from(["", "Unschedulable"]),
        message=st.sampled_from(["", "no node has room"]),
        result=REPORTS,
        expires=st.booleans(),
    )
    return st.lists(views, max_size=4, unique_by=lambda view: view.name).map(tuple)


def records(of: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    states = st.sampled_from(["running", "done", "failed"])
    return st.dictionaries(st.sampled_from(of), states, max_size=3).map(
        lambda found: {name: run(name, state, sent=2) for name, state in found.items()}
    )


@st.composite
def databases(draw: Any, of: list[str]) -> Any:
    if draw(st.integers(0, 4)) == 0:
        return draw(TROUBLES)
    stuck = draw(st.sampled_from([0, 1, 9, 35]))
    routes = (WaitingRoute(*ROUTE, rows=stuck, stuck=stuck), WaitingRoute("other", "key", rows=1, stuck=0, parked=1))
    return database(
        stuck,
        parked=draw(st.integers(0, 2)),
        at=after(draw(st.integers(0, 100))),
        senders=draw(st.sampled_from([(), (SENDER,), (MUTE_SENDER,)])),
        routes=routes,
        findings=draw(FINDINGS),
        runs=draw(records(of)),
    )


@st.composite
def rounds(draw: Any) -> dict[str, Any]:
    """A status as an earlier look may have left it."""
    if draw(st.booleans()):
        return {}
    state = draw(st.sampled_from(["Starting", "Running", "Succeeded", "Failed"]))
    over = state in {"Succeeded", "Failed"}
    found = Round(
        number=draw(st.integers(1, 3)),
        generation=1,
        jobs=draw(st.integers(1, 3)),
        state=state,
        started_at="2026-06-01T11:00:00Z",
        finished_at="2026-06-01T11:59:50Z" if over else "",
        failures=draw(st.integers(0, 3)),
        counted_at=after(draw(st.integers(-50, 50))).isoformat() if over else "",
    )
    return {"resend": found.document()}


@st.composite
def outbox_looks(draw: Any) -> OutboxSnapshot:
    return outbox(
        target=target(generation=draw(st.integers(1, 2))),
        status=draw(rounds()),
        jobs=draw(job_lists(ROUND_JOBS)),
        database=draw(databases(ROUND_JOBS)),
        broker=draw(BROKERS),
        slots_free=draw(st.integers(0, 4)),
        tended=draw(st.sampled_from([None, Tended(NOW), Tended(after(-4000)), Tended(NOW, AWAY)])),
    )


def settled(first: Plan, again: Plan) -> None:
    """The same look once more, after the status was written."""
    assert again.status == first.status
    assert not again.events
    assert set(names(again)) <= set(names(first))
    # It is due until the history was tended, whatever was written.
    assert again.tend == first.tend


@UNHURRIED
@given(outbox_looks())
def test_an_outbox_is_decided_about_once_by_one_look(look: OutboxSnapshot) -> None:
    first = outboxes.plan(PARALLEL, look, NOW)
    settled(first, outboxes.plan(PARALLEL, replace(look, status=first.status), NOW))


@UNHURRIED
@given(outbox_looks(), outbox_looks())
def test_two_operators_with_one_status_decide_on_the_same_names(one: OutboxSnapshot, other: OutboxSnapshot) -> None:
    other = replace(other, status=one.status, jobs=one.jobs, target=one.target)
    first, second = (set(names(outboxes.plan(PARALLEL, look, NOW))) for look in (one, other))
    fewer, more = sorted((first, second), key=len)
    this = Round.from_status(one.status.get("resend"))
    if this is None or this.is_over:
        assert fewer <= more  # of the same round, which may have more Jobs where more is stuck
    assert all(name.split("-r")[1].split("-")[0] == next(iter(more)).split("-r")[1].split("-")[0] for name in fewer)


@UNHURRIED
@given(outbox_looks())
def test_a_look_starts_no_more_jobs_than_it_may(look: OutboxSnapshot) -> None:
    planned = outboxes.plan(PARALLEL, look, NOW)
    assert len(planned.jobs) <= min(look.slots_free, PARALLEL.resend.max_parallel_jobs)


@UNHURRIED
@given(outbox_looks())
def test_a_round_that_is_over_is_never_made_again(look: OutboxSnapshot) -> None:
    this = Round.from_status(look.status.get("resend"))
    if this is not None and this.is_over:
        assert not set(this.names(UID)) & set(names(outboxes.plan(PARALLEL, look, NOW)))


@UNHURRIED
@given(outbox_looks())
def test_no_job_expires_before_its_round_is_over_in_the_status(look: OutboxSnapshot) -> None:
    planned = outboxes.plan(PARALLEL, look, NOW)
    this = Round.from_status(planned.status.get("resend"))
    if this is not None and not this.is_over:
        assert not set(this.names(UID)) & set(planned.expire)


@UNHURRIED
@given(outbox_looks())
def test_every_condition_is_given_at_every_look(look: OutboxSnapshot) -> None:
    planned = outboxes.plan(PARALLEL, look, NOW)
    assert [each["type"] for each in planned.status["conditions"]] == [
        "Ready",
        "DatabaseReachable",
        "BrokerReachable",
        "Routable",
        "Draining",
        "TopologyInSync",
        "HistoryTended",
    ]
    for each in planned.status["conditions"]:
        assert each["reason"].isalnum()
        assert each["reason"][0].isupper()
        assert each["message"]


@st.composite
def inbox_looks(draw: Any) -> Any:
    depths = queues(
        ready=draw(st.integers(0, 2)),
        dead=draw(st.sampled_from([None, 0, 3])),
        consumers=draw(st.integers(0, 1)),
        unlettered=draw(st.integers(0, 1)),
    )
    views = [
        BrokerView(depths=depths, dead_reasons=(DeadLetters("malformed", 3),), oldest_dead_at=NOW),
        BrokerView(unseen=Trouble("ManagementNotGiven", "add management-url")),
        Trouble("Unreachable", "broker away"),
    ]
    seen = draw(st.sampled_from([InboxDatabase(at=NOW, failing=1), AWAY]))
    return inbox(database=seen, broker=draw(st.sampled_from(views)))


@UNHURRIED
@given(inbox_looks(), inbox_looks())
def test_an_inbox_is_decided_about_once_by_one_look(before: Any, look: Any) -> None:
    look = replace(look, status=inboxes.plan(INBOX, before, NOW - timedelta(seconds=60)).status)
    first = inboxes.plan(INBOX, look, NOW)
    settled(first, inboxes.plan(INBOX, replace(look, status=first.status), NOW))


STATUSES = st.sampled_from(
    [
        {},
        {"phase": "Pending", "message": "waits"},
        *({"phase": phase, "job": name} for phase in ("Running", "Succeeded", "Failed") for name in ONCE_JOBS),
    ]
)


@UNHURRIED
@given(
    st.sampled_from([OUTBOX, None, AWAY]),
    databases(ONCE_JOBS),
    BROKERS,
    STATUSES,
    job_lists(ONCE_JOBS),
    st.integers(0, 2),
)
def test_a_resend_is_decided_about_once_and_final_for_ever(
    whose: Any, seen: Any, broker: Any, status: dict[str, Any], jobs: Any, slots_free: int
) -> None:
    look = ResendSnapshot(
        target=target("Resend"),
        status=status,
        jobs=jobs,
        slots_free=slots_free,
        outbox=whose,
        database=seen if whose is OUTBOX else None,
        broker=broker if whose is OUTBOX else None,
    )
    spec = ResendSpec(outbox="orders", parked=True)
    first = resend.plan(spec, look, NOW)
    settled(first, resend.plan(spec, replace(look, status=first.status), NOW))
    assert len(first.jobs) <= 1
    if status.get("phase") in {"Succeeded", "Failed"}:
        assert not first.jobs
        assert first.status == status


@UNHURRIED
@given(st.sampled_from([INBOX, None, AWAY]), inbox_looks(), STATUSES, job_lists(ONCE_JOBS))
def test_a_redrive_is_decided_about_once_and_final_for_ever(
    whose: Any, seen: Any, status: dict[str, Any], jobs: Any
) -> None:
    look = RedriveSnapshot(
        target=target("Redrive"),
        status=status,
        jobs=jobs,
        inbox=whose,
        database=seen.database if whose is INBOX else None,
        broker=seen.broker if whose is INBOX else None,
    )
    spec = RedriveSpec(inbox="waybill")
    first = redrive.plan(spec, look, NOW)
    settled(first, redrive.plan(spec, replace(look, status=first.status), NOW))
    assert len(first.jobs) <= 1
    if status.get("phase") in {"Succeeded", "Failed"}:
        assert not first.jobs
        assert first.status == status

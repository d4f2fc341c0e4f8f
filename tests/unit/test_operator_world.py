"""Operators in a small world that crashes between any two steps of carrying a plan out.

Two operators look at one Outbox or Resend from bodies that may be stale; Jobs end, fail, are deleted by somebody or by
their ttl; senders, brokers and databases come and go. Whatever the order, what a look decided is in the status before
its Job exists, a decision has one name, and in the end everything is sent and nobody changes anything any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Protocol

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from operator_support import (
    AWAY,
    CALM_BROKER,
    MUTE_SENDER,
    NOW,
    OUTBOX,
    ROUTE,
    SENDER,
    UNHURRIED,
    database,
    run,
    target,
)
from outhaul.database.runs import Run
from outhaul_operator.domain import outbox, resend
from outhaul_operator.domain.rounds import Round
from outhaul_operator.outcomes import RunReport
from outhaul_operator.plan import JobRequest, Plan
from outhaul_operator.snapshot import BrokerView, JobView, OutboxSnapshot, ResendSnapshot, Seen, Trouble
from outhaul_operator.specs import ResendSpec

MOST_JOBS = 3
BATCH_ROWS = 10
SPEC = replace(OUTBOX, resend=replace(OUTBOX.resend, batch_size=BATCH_ROWS, max_parallel_jobs=MOST_JOBS))
RESEND = ResendSpec(outbox="orders", parked=True)
BROKERS: dict[str, BrokerView | Trouble] = {
    "well": CALM_BROKER,
    "away": Trouble("Unreachable", "broker away"),
    "unbound": replace(CALM_BROKER, unrouted=frozenset({ROUTE})),
    "alarm": replace(CALM_BROKER, alarms=("node a has a memory alarm",)),
}


@dataclass
class World:
    """What the API server, the database and the broker hold."""

    rows: int = 0
    now: Any = NOW
    version: int = 1
    generation: int = 1
    status: dict[str, Any] = field(default_factory=dict)
    written: list[dict[str, Any]] = field(default_factory=list)
    jobs: dict[str, JobView] = field(default_factory=dict)
    requests: dict[str, JobRequest] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    deleted_by_somebody: set[str] = field(default_factory=set)
    broker: str = "well"
    database_away: bool = False
    sender: str = "none"

    def tick(self, seconds: float = 1.0) -> None:
        self.now += timedelta(seconds=seconds)

    def active(self) -> list[str]:
        return [name for name, job in self.jobs.items() if job.state == "active"]

    def end(self, name: str, *, failing: bool, rows: int) -> None:
        """The Job's pod has done its part: a run that is on record as done does nothing."""
        limit = getattr(self.requests[name].run, "limit", None)
        before = self.runs.get(name)
        done_before = before is not None and before.state == "done"
        sent = 0 if done_before or self.broker != "well" or self.database_away else min(rows, limit or rows, self.rows)
        self.rows -= sent
        total = sent + (before.counts.get("sent", 0) if before else 0)
        failed = not done_before and (failing or self.broker != "well" or self.database_away)
        if not self.database_away and not done_before:
            self.runs[name] = run(name, "failed" if failed else "done", sent=total)
        report = RunReport(message="broker away" if failed else "", counts={"sent": total}, done_before=done_before)
        state: Any = "failed" if failed else "succeeded"
        self.jobs[name] = replace(self.jobs[name], state=state, result=report)


class Kind(Protocol):
    """One kind of object in the world."""

    def plan(self, world: World, seen: Seen) -> Plan: ...

    def decided(self, status: dict[str, Any]) -> set[str]: ...

    def is_over(self, status: dict[str, Any]) -> bool: ...


class Outboxes:
    def plan(self, world: World, seen: Seen) -> Plan:
        parts = _parts(seen)
        if world.database_away:
            return outbox.plan(SPEC, OutboxSnapshot(**parts, database=AWAY), world.now)
        return outbox.plan(
            SPEC, OutboxSnapshot(**parts, database=_database(world), broker=BROKERS[world.broker]), world.now
        )

    def decided(self, status: dict[str, Any]) -> set[str]:
        this = Round.from_status(status.get("resend"))
        return set() if this is None else set(this.names(target().uid))

    def is_over(self, status: dict[str, Any]) -> bool:
        this = Round.from_status(status.get("resend"))
        return this is None or this.is_over


class Resends:
    def plan(self, world: World, seen: Seen) -> Plan:
        given = {**_parts(seen), "outbox": SPEC}
        if world.database_away:
            return resend.plan(RESEND, ResendSnapshot(**given, database=AWAY), world.now)
        return resend.plan(
            RESEND, ResendSnapshot(**given, database=_database(world), broker=BROKERS[world.broker]), world.now
        )

    def decided(self, status: dict[str, Any]) -> set[str]:
        return {status["job"]} if "job" in status else set()

    def is_over(self, status: dict[str, Any]) -> bool:
        return status.get("phase") in {"Succeeded", "Failed"}


def _parts(seen: Seen) -> dict[str, Any]:
    return {name: getattr(seen, name) for name in Seen.__dataclass_fields__}


def _database(world: World) -> Any:
    senders = {"none": (), "mute": (MUTE_SENDER,), "well": (SENDER,)}[world.sender]
    return database(world.rows, at=world.now, senders=senders, runs=dict(world.runs))


@dataclass
class Operator:
    """One operator: the body it believes in, and what is left to do of the look under way."""

    status: dict[str, Any] = field(default_factory=dict)
    version: int = 0
    seen_jobs: tuple[JobView, ...] | None = None
    steps: Iterator[str] | None = None
    to_make: set[str] = field(default_factory=set)

    def read(self, world: World) -> None:
        self.status, self.version = world.status, world.version

    def crash(self) -> None:
        self.seen_jobs, self.steps = None, None
        self.to_make.clear()

    def look(self, world: World, kind: Kind) -> None:
        assert self.seen_jobs is not None
        whose = target(generation=world.generation, resource_version=str(self.version))
        seen = Seen(target=whose, status=self.status, jobs=self.seen_jobs)
        self.seen_jobs = None
        self.steps = self._carry_out(world, kind.plan(world, seen))

    def _carry_out(self, world: World, planned: Plan) -> Iterator[str]:
        """One step at a time, in the order of `outhaul_operator.looking`."""
        if planned.jobs or planned.status != self.status:
            if self.version != world.version:
                self.read(world)
                return
            world.version += 1
            world.status = dict(planned.status)
            world.written.append(world.status)
            self.read(world)
            self.to_make = {request.name for request in planned.jobs}
            yield "the status is written"
        for request in planned.jobs:
            if request.name not in world.jobs:
                world.jobs[request.name] = JobView(name=request.name)
                world.requests[request.name] = request
                world.made.append(request.name)
            self.to_make.discard(request.name)
            yield "a Job is made"
        for name in planned.expire:
            if name in world.jobs:
                world.jobs[name] = replace(world.jobs[name], expires=True)
            yield "a ttl is set"

    def begin(self, world: World, kind: Kind) -> None:
        self.read(world)
        self.seen_jobs = tuple(world.jobs.values())
        world.tick()
        self.look(world, kind)

    def finish(self) -> None:
        while self.steps is not None:
            self.step()

    def step(self) -> None:
        assert self.steps is not None
        if next(self.steps, None) is None:
            self.steps = None


def _rows_get_stuck(rows: int) -> Callable[[World], None]:
    def change(world: World) -> None:
        world.rows += rows

    return change


def _set(**values: Any) -> Callable[[World], None]:
    def change(world: World) -> None:
        for name, value in values.items():
            setattr(world, name, value)

    return change


def _a_sender_sends_half(world: World) -> None:
    world.sender, world.rows = "well", world.rows // 2


def _the_spec_changes(world: World) -> None:
    world.generation += 1


CHANGES = st.one_of(
    st.integers(1, 60).map(_rows_get_stuck),
    st.just(_set(broker="well", database_away=False, sender="none")),
    st.sampled_from(list(BROKERS)).map(lambda state: _set(broker=state)),
    st.sampled_from(["none", "mute"]).map(lambda state: _set(sender=state)),
    st.sampled_from([_a_sender_sends_half, _the_spec_changes, _set(database_away=True)]),
    st.floats(1, 2000).map(lambda seconds: lambda world: world.tick(seconds)),
)


class Machine(RuleBasedStateMachine):
    kind: Kind

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.operators = [Operator(), Operator()]

    which = st.integers(0, 1)

    @initialize(rows=st.integers(1, 60))
    def begin(self, rows: int) -> None:
        self.world.rows = rows
        for operator in self.operators:
            operator.read(self.world)

    @rule(which=which, fresh=st.booleans())
    def sees_the_jobs(self, which: int, fresh: bool) -> None:
        operator = self.operators[which]
        if operator.steps is None:
            if fresh:
                operator.read(self.world)
            operator.seen_jobs = tuple(self.world.jobs.values())

    @rule(which=which)
    def sees_the_rest_and_plans(self, which: int) -> None:
        operator = self.operators[which]
        if operator.seen_jobs is not None:
            self.world.tick()
            operator.look(self.world, self.kind)

    @rule(which=which)
    def carries_out_a_step(self, which: int) -> None:
        if self.operators[which].steps is not None:
            self.operators[which].step()

    @rule(which=which)
    def looks_without_a_hitch(self, which: int) -> None:
        if self.operators[which].steps is None:
            self.operators[which].begin(self.world, self.kind)
            self.operators[which].finish()

    @rule(which=which)
    def looks_and_stops_after_a_step(self, which: int) -> None:
        if self.operators[which].steps is None:
            self.operators[which].begin(self.world, self.kind)
            self.operators[which].step()

    @rule(which=which)
    def crashes(self, which: int) -> None:
        self.operators[which].crash()
        self.operators[which].read(self.world)

    @precondition(lambda self: self.world.active())
    @rule(data=st.data(), failing=st.booleans(), rows=st.integers(0, BATCH_ROWS))
    def a_job_ends(self, data: Any, failing: bool, rows: int) -> None:
        self.world.tick()
        name = data.draw(st.sampled_from(self.world.active()))
        self.world.end(name, failing=failing, rows=rows if failing else 10**9)

    @precondition(lambda self: self.deletable())
    @rule(data=st.data())
    def somebody_deletes_a_job(self, data: Any) -> None:
        name = data.draw(st.sampled_from(self.deletable()))
        del self.world.jobs[name]
        self.world.deleted_by_somebody.add(name)

    @rule()
    def ttls_pass(self) -> None:
        for name in self.deletable():
            if self.world.jobs[name].expires:
                del self.world.jobs[name]

    @rule(change=CHANGES)
    def the_world_changes(self, change: Callable[[World], None]) -> None:
        """One rule for all of it, so that most steps are the operators'."""
        change(self.world)

    def deletable(self) -> list[str]:
        """A look ends long before a ttl does: no operator is still about to make a Job that goes by now."""
        about_to_be_made = set().union(*(operator.to_make for operator in self.operators))
        return [name for name in self.world.jobs if name not in about_to_be_made]

    @invariant()
    def never_more_jobs_at_once_than_asked_for(self) -> None:
        assert len(self.world.active()) <= MOST_JOBS

    @invariant()
    def no_job_is_at_work_for_a_decision_that_is_over(self) -> None:
        if self.world.active():
            assert not self.kind.is_over(self.world.status)
            assert set(self.world.active()) <= self.kind.decided(self.world.status)

    @invariant()
    def every_job_was_in_the_status_before_it_was_made(self) -> None:
        decided = set().union(*(self.kind.decided(status) for status in self.world.written))
        assert set(self.world.made) <= decided

    @invariant()
    def no_job_is_made_twice_unless_somebody_deleted_it(self) -> None:
        twice = {name for name in self.world.made if self.world.made.count(name) > 1}
        assert twice <= self.world.deleted_by_somebody

    @invariant()
    def a_decision_that_is_over_stays_over(self) -> None:
        over: set[str] = set()
        for status in self.world.written:
            names = self.kind.decided(status)
            if self.kind.is_over(status):
                over |= names
            else:
                assert not over & names

    def teardown(self) -> None:
        world = self.world
        world.broker, world.database_away, world.sender = "well", False, "none"
        for _ in range(60):
            for operator in self.operators:
                operator.crash()
                world.tick(1000)
                operator.begin(world, self.kind)
                operator.finish()
                self.check()
            for name in world.active():
                world.end(name, failing=False, rows=10**9)
        assert not world.active()
        assert self.kind.is_over(world.status)
        assert all(job.expires for job in world.jobs.values())
        self.at_the_end()
        for operator in self.operators:
            operator.read(world)
            seen = Seen(
                target=target(generation=world.generation), status=world.status, jobs=tuple(world.jobs.values())
            )
            planned = self.kind.plan(world, seen)
            tended = {name: value for name, value in world.status.items() if name != "tendedAt"}
            assert {name: value for name, value in planned.status.items() if name != "tendedAt"} == tended
            assert not planned.jobs
            assert not planned.events

    def check(self) -> None:
        self.never_more_jobs_at_once_than_asked_for()
        self.no_job_is_at_work_for_a_decision_that_is_over()
        self.every_job_was_in_the_status_before_it_was_made()
        self.no_job_is_made_twice_unless_somebody_deleted_it()
        self.a_decision_that_is_over_stays_over()

    def at_the_end(self) -> None: ...


class OutboxMachine(Machine):
    kind = Outboxes()

    def at_the_end(self) -> None:
        assert self.world.rows == 0


class ResendMachine(Machine):
    kind = Resends()

    def at_the_end(self) -> None:
        assert len(set(self.world.made)) <= 1


TestOutboxInTheWorld = OutboxMachine.TestCase
TestOutboxInTheWorld.settings = settings(UNHURRIED, max_examples=60, stateful_step_count=60)
TestResendInTheWorld = ResendMachine.TestCase
TestResendInTheWorld.settings = settings(UNHURRIED, max_examples=40, stateful_step_count=40)

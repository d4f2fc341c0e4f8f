"""The lease and confirm protocol against a model broker: whatever happens in whatever order, sent means routed.

Several senders, crashes, confirms and nacks in any order and for several at once, returns, lost connections, late
arrivals, late confirms, leases that end, rows parked, sent again and discarded. `protocol_model` says what is real.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from pika import frame, spec

from outbox_support import shared_database
from outhaul.amqp.confirm_channel import ConfirmChannel
from outhaul.amqp.window import Acked, Window
from outhaul.backoff import Backoff
from outhaul.database import outbox_queries
from outhaul.errors import BrokerUnreachable
from outhaul.resend import ResendRequest
from outhaul.sending.pump import Pump, Waiting
from protocol_model import ROUTES, Desk, World
from protocol_sender import BROKER, Clock, ModelSender, Violation

SENDERS, ANY = st.integers(0, 1), st.integers(0, 2)
EXAMPLES = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),  # a step is a few statements on a machine that others use too
)
# A mutant is to be found, and how small the example is matters to nobody.
MUTANTS = settings(
    EXAMPLES, max_examples=400, derandomize=True, database=None, report_multiple_bugs=False, phases=[Phase.generate]
)


def lose_connection(world: World, number: int) -> None:
    senders = world.all_senders
    senders[number % len(senders)].lose(BrokerUnreachable(BROKER.address, "gone"))


def find_confirms_overdue(world: World, number: int) -> None:
    senders = world.all_senders
    senders[number % len(senders)].time_out()


def end_in_order(world: World, number: int) -> None:
    world.senders[number % 2].drain()
    world.crash(number % 2)


def be_killed(world: World, number: int) -> None:
    world.crash(number % 2)


def have_its_last_words_arrive(world: World, _: int) -> None:
    world.arrive_late()


def be_blocked(world: World, number: int) -> None:
    sender = world.senders[number % 2]
    sender.block(blocked=not sender.is_blocked)


FAULTS = [lose_connection, find_confirms_overdue, end_in_order, be_killed, have_its_last_words_arrive, be_blocked]


class Protocol(RuleBasedStateMachine):
    """The world's steps, in any order. A step that only some senders can take is one of those senders'."""

    def __init__(self, desk: Desk, clock: Clock, *, heals: bool, route_a: str) -> None:
        super().__init__()
        self.world = World(desk, clock)
        self.heals = heals
        if route_a:
            self.world.routes["a"] = route_a

    def one(self, number: int, able: str = "") -> ModelSender | None:
        """One of the senders that have something ``able``; the choice draws nothing, so that a run can be replayed."""
        senders = [each for each in self.world.all_senders if not able or getattr(each, able)]
        return senders[number % len(senders)] if senders else None

    @initialize(routes=st.lists(st.sampled_from(ROUTES), min_size=1, max_size=8))
    def there_are_rows(self, routes: list[str]) -> None:
        self.world.record(routes)

    @rule(routes=st.lists(st.sampled_from(ROUTES), min_size=1, max_size=4), large=st.integers(-2, 1))
    def record(self, routes: list[str], large: int) -> None:
        self.world.record(routes, large=max(0, large))

    @rule(route=st.sampled_from(ROUTES), number=SENDERS, dies=st.booleans())
    def record_and_hand_over(self, route: str, number: int, dies: bool) -> None:
        self.world.record_leased(route, None if dies else self.world.senders[number])

    @rule(number=ANY)
    def claim_and_publish(self, number: int) -> None:
        if sender := self.one(number):
            sender.turn()

    @rule(number=ANY)
    def sender_works(self, number: int) -> None:
        if sender := self.one(number):
            self.world.work(sender)

    @rule(number=ANY, count=st.integers(1, 8))
    def broker_reads(self, number: int, count: int) -> None:
        if sender := self.one(number, "on_the_wire"):
            self.world.arrive(sender, count)
        else:
            self.claim_and_publish(number)

    @rule(number=ANY, which=st.integers(0, 7), multiple=st.booleans())
    def broker_answers(self, number: int, which: int, multiple: bool) -> None:
        if sender := self.one(number, "undelivered"):
            self.world.answer(sender, which, multiple=multiple)
        else:
            self.broker_reads(number, 8)

    @rule(number=ANY)
    def mark(self, number: int) -> None:
        if sender := self.one(number, "unmarked"):
            self.world.mark(sender)
        else:
            self.broker_answers(number, 0, multiple=False)

    @rule(seconds=st.sampled_from([7, 31, 67, 400]))
    def time_passes(self, seconds: int) -> None:
        self.world.advance(seconds)

    @rule(number=ANY, fault=st.sampled_from(FAULTS))
    def sender_fails(self, number: int, fault: Callable[[World, int], None]) -> None:
        fault(self.world, number)

    @rule(route=st.sampled_from(ROUTES), state=st.sampled_from(["", "unbound", "full", "missing"]), large=st.booleans())
    def broker_changes(self, route: str, state: str, large: bool) -> None:
        self.world.routes.pop(route, None)
        if state:
            self.world.routes[route] = state
        self.world.refuses_large = large

    @rule(data=st.data())
    def people_do_something(self, data: st.DataObject) -> None:
        ids = sorted(self.world.recorded)
        chosen = data.draw(st.lists(st.sampled_from(ids), max_size=3, unique=True))
        what = data.draw(st.sampled_from(["resend", "resend parked", "unpark", "discard"]))
        if what == "resend" and chosen:
            self.world.start_resend(ResendRequest(message_ids=tuple(chosen)))
        elif what == "resend parked":
            self.world.start_resend(ResendRequest(parked=True))
        elif what == "unpark":
            self.world.unpark()
        elif what == "discard" and chosen:
            self.world.discard(chosen[:1])

    @invariant()
    def sent_means_routed_and_nothing_vanishes(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        if self.heals:
            self.world.heal()


def explore(desk: Desk, clock: Clock, how: settings, *, heals: bool, route_a: str = "") -> None:
    machine = functools.partial(Protocol, desk, clock, heals=heals, route_a=route_a)
    run_state_machine_as_test(machine, settings=how)  # type: ignore[arg-type] # any callable that makes one


@pytest.fixture(scope="module")
def desk(postgres_url: str) -> Iterator[Desk]:
    with shared_database(postgres_url, "outbox") as dsn:
        desk = Desk(dsn)
        try:
            yield desk
        finally:
            desk.close()


def longest_pause(backoff: Backoff) -> float:
    backoff.failures += 1
    return min(backoff.cap_seconds, backoff.base_seconds * 2.0 ** min(backoff.failures - 1, 32))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    # Drawn at random they would make a run that nobody can repeat.
    monkeypatch.setattr(Backoff, "next_seconds", longest_pause)
    for module in ("sending.pump", "sending.feeder", "sending.engine", "amqp.confirm_channel", "amqp.confirm_link"):
        monkeypatch.setattr(f"outhaul.{module}.time", clock)
    return clock


def test_in_whatever_order_things_happen_sent_means_routed_and_everything_goes_out(desk: Desk, clock: Clock) -> None:
    explore(desk, clock, EXAMPLES, heals=True)


# What follows breaks one rule at a time: a model that would not notice proves nothing. The rules of each statement by
# itself (tokens asked for by a release, a refusal, a discard) are held against `test_outbox_model`.
Break = Callable[[pytest.MonkeyPatch], None]


def take_returned_for_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Window.ack

    def ack(self: Window[Any], tag: int, *, multiple: bool) -> Acked[Any]:
        confirmed, unroutable = right(self, tag, multiple=multiple)
        return Acked([*confirmed, *(item for item, _ in unroutable)], [])

    monkeypatch.setattr(Window, "ack", ack)


def take_nacked_for_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ConfirmChannel._answer

    def answer(self: ConfirmChannel, answered: Any) -> None:
        method = spec.Basic.Ack(answered.method.delivery_tag, answered.method.multiple)
        right(self, frame.Method(1, method))

    monkeypatch.setattr(ConfirmChannel, "_answer", answer)


def take_unanswered_for_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ConfirmChannel.end

    def end(self: ConfirmChannel, error: BaseException, **others: Any) -> None:
        keys = [each.item.key for each in self.window._pending.values()]
        right(self, error, **others)
        if keys:
            self._on_confirmed(keys)

    monkeypatch.setattr(ConfirmChannel, "end", end)


def take_every_ack_for_all_before(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Window.ack
    monkeypatch.setattr(Window, "ack", lambda self, tag, *, multiple: right(self, tag, multiple=True))


def mark_at_publish(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Pump._publish

    def publish(self: Pump, waiting: Waiting) -> None:
        right(self, waiting)
        self._on_confirmed([waiting.row.message_id], waiting.row)

    monkeypatch.setattr(Pump, "_publish", publish)


def breaking(name: str, old: str, new: str) -> Break:
    """That statement with one piece of it changed."""
    right = getattr(outbox_queries, name)
    assert old in right

    def change(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outbox_queries, name, right.replace(old, new))

    return change


UNDER_LEASE = "AND available_at > (SELECT clock_timestamp())"
# What is broken, and how the world begins, so that it need not be searched for long.
MUTATIONS: dict[str, tuple[Break, str]] = {
    "returned is taken for sent": (take_returned_for_sent, "unbound"),
    "nacked is taken for sent": (take_nacked_for_sent, "full"),
    "unanswered is taken for sent": (take_unanswered_for_sent, ""),
    "every ack is taken for multiple": (take_every_ack_for_all_before, "full"),
    "marked as soon as published": (mark_at_publish, ""),
    "a confirm keeps no history": (breaking("CONFIRM", "created_at FROM done", "created_at FROM done WHERE false"), ""),
    "a confirm counts under a live lease alone": (
        breaking("CONFIRM", "WHERE message_id = ANY(%s::uuid[])", f"WHERE message_id = ANY(%s::uuid[]) {UNDER_LEASE}"),
        "",
    ),
    "a claim takes leased rows": (breaking("CLAIM", "AND available_at <= (SELECT clock_timestamp())", ""), ""),
    "a resend takes leased rows": (breaking("CLAIM_IDS", "AND (lease_token IS NULL OR", "AND (true OR"), ""),
    "unparking frees leased rows": (breaking("UNPARK", "AND status = 'parked'", ""), ""),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_model_notices_when(name: str, desk: Desk, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    change, route_a = MUTATIONS[name]
    change(monkeypatch)
    with pytest.raises((Violation, Flaky)):  # noticed, or noticed once: the database's clock goes on by itself
        explore(desk, clock, MUTANTS, heals=False, route_a=route_a)

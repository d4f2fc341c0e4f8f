from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from outhaul.amqp.outgoing import Outcome, Outgoing, Settled
from outhaul.database.outbox_store import OutboxRow
from outhaul.sending.pump import Pump, Setback, Waiting

FAR = 1e12
KINDS = ["healthy", "healthy", "healthy", "poison", "missing", "unroutable", "full"]


def row(kind: str = "healthy", key: str = "k") -> OutboxRow:
    """A row whose routing key (and exchange) says what the broker below makes of it."""
    exchange = "gone" if kind == "missing" else "e"
    return OutboxRow(
        message_id=uuid4(),
        seq=1,
        exchange=exchange,
        routing_key=f"{kind}.{key}",
        type="poison" if kind == "poison" else "t",
        source="s",
        aggregate_id="1",
        payload=b"{}",
        content_type="application/json",
        headers={},
        causation_id=None,
        traceparent=None,
        created_at=datetime.now(UTC),
        attempts=0,
        lease_token=uuid4(),
    )


class Broker:
    """A publisher and the broker behind it: confirms, returns, nacks, and closes the channel as the real one does."""

    def __init__(self, window: int = 5) -> None:
        self.window = window
        self.flight: list[Outgoing] = []
        self.open = True
        self.refused_at_once: set[str] = set()
        self.channels_lost = 0
        self.pump = Pump(
            self,
            least_lease_seconds=10.0,
            on_confirmed=lambda ids, _: self.confirmed.extend(ids),
            on_setback=lambda: None,
            on_recovery=lambda breaker: self.recovered.append(breaker.route),
            on_whole=lambda _: None,
            on_trip=lambda breaker: self.tripped.append(breaker.route),
        )
        self.confirmed: list[UUID] = []
        self.recovered: list[Any] = []
        self.tripped: list[Any] = []
        self.healed: set[str] = set()

    @property
    def unconfirmed(self) -> int:
        return len(self.flight)

    def has_room(self, size_bytes: int = 0) -> bool:
        return self.open and len(self.flight) < self.window and size_bytes >= 0

    def publish(self, outgoing: Outgoing) -> Settled | None:
        if outgoing.message_id in self.refused_at_once:
            return Settled(outgoing.key, Outcome.REFUSED, "cannot be encoded")
        self.flight.append(outgoing)
        return None

    def step(self) -> None:
        """Handle what is in flight, in order, up to the first that costs the channel."""
        confirmed: list[Any] = []
        settled: list[Settled] = []
        handled = 0
        for each in self.flight:
            kind = each.routing_key.partition(".")[0]
            if kind in {"poison", "missing"} and kind not in self.healed:
                break
            handled += 1
            if kind == "unroutable" and kind not in self.healed:
                settled.append(Settled(each.key, Outcome.UNROUTABLE, "312"))
            elif kind == "full" and kind not in self.healed:
                settled.append(Settled(each.key, Outcome.NACKED, "full"))
            else:
                confirmed.append(each.key)
        rest, self.flight = self.flight[handled:], []
        if rest and handled:
            # The broker's answers to those before got lost with the channel.
            rest = [*(o for o in self._of(confirmed, settled)), *rest]
            confirmed, settled = [], []
        if rest:
            self.channels_lost += 1
            if len(rest) == 1:
                outcome = Outcome.REFUSED if rest[0].type == "poison" else Outcome.NO_EXCHANGE
                settled.append(Settled(rest[0].key, outcome, "closed"))
            else:
                settled += [Settled(each.key, Outcome.UNKNOWN, "closed", suspect=True) for each in rest]
        if confirmed:
            self.pump.confirmed(confirmed)
        if settled:
            self.pump.settled(settled)
        self.pump.run()

    @staticmethod
    def _of(confirmed: list[Any], settled: list[Settled]) -> list[Outgoing]:
        waiting: list[Waiting] = [*confirmed, *(each.key for each in settled)]  # type: ignore[list-item] # its own keys
        return [
            Outgoing(each, each.row.exchange, each.row.routing_key, b"", str(each.row.message_id), each.row.type)
            for each in waiting
        ]

    def run_dry(self, rounds: int = 1000) -> None:
        self.pump.run()
        for _ in range(rounds):
            if not self.flight and not self.pump.waiting:
                return
            self.step()
        raise AssertionError(f"never done: {len(self.flight)} in flight, {self.pump.waiting} waiting")

    def setback_of(self, each: OutboxRow) -> Setback:
        [found] = [setback for setback in self.pump.setbacks if setback.row is each]
        return found


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from("ab")), max_size=40), st.integers(1, 10))
@settings(max_examples=300, deadline=None)
def test_every_row_ends_once_and_only_the_guilty_spend_an_attempt(kinds: list[tuple[str, str]], window: int) -> None:
    broker = Broker(window)
    rows = [row(kind, key) for kind, key in kinds]
    broker.pump.feed(rows, FAR)
    broker.run_dry()
    ended = [each.row.message_id for each in broker.pump.setbacks] + broker.confirmed
    assert sorted(ended) == sorted(each.message_id for each in rows)
    assert set(broker.confirmed) == {each.message_id for each in rows if each.routing_key.startswith("healthy")}
    refused = {each.row.message_id for each in broker.pump.setbacks if each.refused}
    assert refused == {each.message_id for each in rows if each.type == "poison"}


def test_a_missing_exchange_costs_few_channels_however_many_rows_and_routes_it_has() -> None:
    broker = Broker(window=50)
    broker.pump.feed([row("missing", str(n)) for n in range(200)] + [row() for _ in range(200)], FAR)
    broker.run_dry()
    assert broker.channels_lost == 2  # the first window, and the one that was tried alone
    assert len(broker.confirmed) == 200


def test_a_probe_flies_alone() -> None:
    broker = Broker(window=50)
    broker.pump.feed([row("missing")], FAR)
    broker.run_dry()
    others = [row() for _ in range(100)]
    broker.pump.feed(others, FAR)
    assert broker.unconfirmed == 50
    broker.pump.probe(row("missing"), FAR)
    assert len(broker.flight) == 50, "what is on its way is not put at risk"
    broker.step()
    assert [each.exchange for each in broker.flight] == ["gone"]
    broker.run_dry()
    assert len(broker.confirmed) == 100


def test_a_proved_route_recovers_and_a_second_failure_holds_it_again() -> None:
    broker = Broker()
    broker.pump.feed([row("unroutable")], FAR)
    broker.run_dry()
    route = ("e", "unroutable.k")
    assert broker.tripped == [route]
    broker.healed.add("unroutable")
    broker.pump.probe(row("unroutable"), FAR)
    broker.run_dry()
    assert broker.recovered == [route]
    broker.healed.clear()
    broker.pump.feed([row("unroutable")], FAR)
    broker.run_dry()
    assert broker.tripped == [route, route]
    assert broker.pump.breakers.holds(route) is not None


def test_rows_of_a_broken_route_are_put_off_without_being_tried() -> None:
    broker = Broker(window=1)
    rows = [row("full") for _ in range(10)]
    broker.pump.feed(rows, FAR)
    broker.run_dry()
    assert broker.pump.tally.published == 1
    for each in rows:
        setback = broker.setback_of(each)
        assert (setback.reason, setback.refused) == ("full", False)
        assert setback.delay_seconds >= 5


def test_a_message_that_cannot_be_encoded_stops_nobody() -> None:
    broker = Broker()
    rows = [row() for _ in range(10)]
    broker.refused_at_once = {str(rows[0].message_id), str(rows[5].message_id)}
    broker.pump.feed(rows, FAR)
    broker.run_dry()
    assert len(broker.confirmed) == 8
    assert broker.setback_of(rows[5]).refused


def test_a_suspect_refused_at_once_does_not_stop_those_behind_it() -> None:
    broker = Broker()
    rows = [row("poison"), row(), row()]
    broker.pump.feed(rows, FAR)
    broker.refused_at_once = {str(each.message_id) for each in rows}
    broker.run_dry()
    broker.pump.feed([row()], FAR)
    broker.run_dry()
    assert len(broker.confirmed) == 1


def test_a_row_that_is_no_message_is_refused_and_stops_nobody() -> None:
    broker = Broker()
    bad: Any = row()
    bad = bad._replace(created_at=None)
    good = row()
    broker.pump.feed([bad, good], FAR)
    broker.run_dry()
    assert broker.setback_of(bad).refused
    assert broker.confirmed == [good.message_id]


def test_rows_whose_lease_would_end_before_a_confirm_are_given_back() -> None:
    broker = Broker()
    late, early = row(), row()
    broker.pump.feed([late], time.monotonic() + 5)
    broker.pump.feed([early], time.monotonic() + 60)
    broker.run_dry()
    assert broker.setback_of(late).delay_seconds == 0
    assert broker.confirmed == [early.message_id]
    assert broker.pump.take_late() == 1
    assert broker.pump.take_late() == 0


def test_a_row_handed_over_goes_before_the_backlog() -> None:
    broker = Broker(window=1)
    backlog, fresh = [row() for _ in range(5)], row()
    broker.pump.feed(backlog, FAR)
    broker.pump.hand(fresh, FAR)
    broker.step()
    broker.step()
    assert fresh.message_id in broker.confirmed
    assert len(broker.confirmed) == 2


def test_what_waits_is_given_back_when_the_broker_goes() -> None:
    broker = Broker()
    broker.open = False
    rows = [row() for _ in range(3)]
    broker.pump.feed(rows, FAR)
    broker.pump.hand(row(), FAR)
    broker.pump.give_back("broker disconnected")
    assert broker.pump.waiting == 0
    assert [(each.reason, each.delay_seconds) for each in broker.pump.setbacks] == [("broker disconnected", 0.0)] * 4

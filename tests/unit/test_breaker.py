from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from outhaul.backoff import Backoff
from outhaul.sending.breaker import (
    HOLD_LEAST_SECONDS,
    HOLD_MOST_SECONDS,
    MOST_ROUTES,
    PROBE_CAP_SECONDS,
    RECOVERY_MOST_ROWS,
    RECOVERY_ROWS,
    Breaker,
    Breakers,
    Phase,
)

ROUTE = ("shop.events", "order.created")
OTHER = ("shop.events", "order.paid")


def broken() -> Breakers:
    breakers = Breakers()
    breakers.trip(ROUTE, "unroutable", "312 NO_ROUTE", 0.0)
    return breakers


def the(breakers: Breakers) -> Breaker:
    breaker = breakers.get(ROUTE)
    assert breaker is not None
    return breaker


def test_a_healthy_sender_has_no_breakers() -> None:
    breakers = Breakers()
    assert not breakers
    assert breakers.holds(ROUTE) is None
    assert breakers.next_due_at() is None


def test_a_broken_route_holds_its_own_messages_and_no_others() -> None:
    breakers = broken()
    assert breakers
    assert breakers.holds(ROUTE) is the(breakers)
    assert breakers.holds(OTHER) is None


def test_a_probe_is_due_after_the_pause_and_not_before() -> None:
    breakers = broken()
    due_at = breakers.next_due_at()
    assert due_at is not None
    assert breakers.due(due_at - 0.001) == []
    assert breakers.due(due_at) == [the(breakers)]


def test_one_probe_at_a_time() -> None:
    breakers = broken()
    breakers.probe(ROUTE)
    assert breakers.due(1000.0) == []
    assert breakers.holds(ROUTE) is not None


def test_a_failed_probe_lengthens_the_pause_and_the_rest_of_a_window_does_not() -> None:
    breakers = broken()
    first_due_at = the(breakers).next_probe_at
    for _ in range(400):
        breakers.trip(ROUTE, "unroutable", "312 NO_ROUTE", 0.1)
    assert the(breakers).next_probe_at == first_due_at
    assert the(breakers).backoff.failures == 1
    breakers.probe(ROUTE)
    breakers.trip(ROUTE, "nacked", "full", 10.0)
    assert the(breakers).backoff.failures == 2
    assert (the(breakers).kind, the(breakers).reason) == ("nacked", "full")
    assert the(breakers).opened_at == 0.0


def test_a_confirmed_probe_lets_the_route_recover_in_growing_steps_until_nothing_is_left() -> None:
    breakers = broken()
    breakers.probe(ROUTE)
    assert breakers.prove(ROUTE)
    assert breakers.holds(ROUTE) is None
    assert breakers.recovering() == [the(breakers)]
    steps = []
    while True:
        steps.append(the(breakers).recovery_rows)
        if breakers.recovered_some(ROUTE, 999):
            break
    assert steps == [RECOVERY_ROWS, 100, RECOVERY_MOST_ROWS]
    assert not breakers


def test_a_route_that_breaks_while_it_recovers_starts_small_again() -> None:
    breakers = broken()
    breakers.probe(ROUTE)
    breakers.prove(ROUTE)
    breakers.recovered_some(ROUTE, RECOVERY_ROWS)
    breakers.trip(ROUTE, "nacked", "full", 5.0)
    assert the(breakers).phase is Phase.OPEN
    assert the(breakers).recovery_rows == RECOVERY_ROWS
    assert the(breakers).backoff.failures == 1


def test_a_probe_that_got_lost_says_nothing_and_is_tried_again_before_long() -> None:
    breakers = broken()
    breakers.probe(ROUTE)
    breakers.unanswered(ROUTE, 7.0)
    assert the(breakers).phase is Phase.OPEN
    assert 7.0 < the(breakers).next_probe_at < 8.0
    assert the(breakers).backoff.failures == 1


def test_only_a_probe_proves_a_route() -> None:
    breakers = broken()
    assert not breakers.prove(ROUTE)
    assert not breakers.prove(OTHER)
    assert the(breakers).phase is Phase.OPEN


def test_a_route_without_rows_is_forgotten() -> None:
    breakers = broken()
    breakers.forget(ROUTE)
    assert not breakers


def test_a_missing_exchange_holds_all_its_routes_by_one_probe() -> None:
    breakers = Breakers()
    breaker = breakers.trip(ROUTE, "no-exchange", "404", 0.0, whole_exchange=True)
    assert breakers.holds(OTHER) is breaker
    assert breakers.holds(("other.events", "order.paid")) is None
    assert breakers.due(1000.0) == [breaker]
    breakers.probe(ROUTE)
    assert breakers.holds(OTHER) is breaker
    breakers.prove(ROUTE)
    # What was put off of the other routes is taken up too.
    assert sorted(each.route for each in breakers.recovering()) == sorted([ROUTE, OTHER])
    assert breakers.holds(OTHER) is None


def test_an_exchange_that_cannot_be_probed_lets_its_other_routes_try() -> None:
    breakers = Breakers()
    breakers.trip(ROUTE, "no-exchange", "404", 0.0, whole_exchange=True)
    breakers.holds(OTHER)
    breakers.forget(ROUTE)
    assert [each.route for each in breakers.recovering()] == [OTHER]
    breakers.recovered_some(OTHER, 0)
    assert not breakers


def test_routing_keys_without_end_use_bounded_memory() -> None:
    breakers = Breakers()
    for n in range(3 * MOST_ROUTES):
        breakers.trip(("shop.events", f"order.{n}"), "unroutable", "312 NO_ROUTE", float(n))
    assert len(list(breakers)) == MOST_ROUTES
    assert breakers.holds(("shop.events", f"order.{3 * MOST_ROUTES - 1}")) is not None
    missing = breakers.trip(("gone.events", "order.0"), "no-exchange", "404", 0.0, whole_exchange=True)
    for n in range(3 * MOST_ROUTES):
        assert breakers.holds(("gone.events", f"order.{n}")) is missing
    assert len(missing.other_keys) == MOST_ROUTES


@given(st.integers(0, 2**32), st.integers(1, 200))
def test_the_pause_between_probes_stays_within_its_cap(seed: int, failures: int) -> None:
    breaker = Breaker(ROUTE, "nacked", "full", 0.0, backoff=Backoff(0.2, PROBE_CAP_SECONDS, random.Random(seed)))
    breakers = Breakers()
    breakers._broken[ROUTE] = breaker
    for n in range(failures):
        breaker.phase = Phase.PROBING
        breakers.trip(ROUTE, "nacked", "full", float(n))
        assert 0 < breaker.next_probe_at - n <= PROBE_CAP_SECONDS


@given(st.floats(0, 1e6))
def test_rows_are_put_off_for_longer_the_longer_the_outage_lasts(seconds: float) -> None:
    breaker = the(broken())
    assert HOLD_LEAST_SECONDS <= breaker.hold_seconds(seconds) <= HOLD_MOST_SECONDS
    assert breaker.hold_seconds(seconds) <= breaker.hold_seconds(seconds + 1)

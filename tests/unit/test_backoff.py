"""Waits grow to a bound, spread out, and are never nothing."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from outhaul.backoff import Backoff


def bound_of(base: float, cap: float, failures: int) -> float:
    return min(cap, base * 2.0**failures)


@given(
    st.floats(0.001, 10),
    st.floats(0.001, 1000),
    st.integers(0, 200),
    st.integers(0, 2**32),
)
def test_every_wait_lies_between_a_twentieth_of_its_bound_and_its_bound(
    base: float, cap: float, failures: int, seed: int
) -> None:
    backoff = Backoff(base_seconds=base, cap_seconds=cap, rng=random.Random(seed), failures=failures)
    bound = bound_of(base, cap, min(failures, 32))
    assert bound / 20 <= backoff.next_seconds() <= bound
    assert backoff.failures == failures + 1


def test_the_bound_doubles_up_to_the_cap() -> None:
    class Most(random.Random):
        def random(self) -> float:
            return 1.0

    backoff = Backoff(base_seconds=0.5, cap_seconds=3.0, rng=Most())
    assert [backoff.next_seconds() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.next_seconds() == 0.5


def test_a_crowd_is_spread_over_the_whole_bound() -> None:
    waits = [Backoff(base_seconds=1.0, rng=random.Random(seed)).next_seconds() for seed in range(1000)]
    assert sum(wait < 0.5 for wait in waits) in range(400, 600)
    assert max(waits) > 0.95

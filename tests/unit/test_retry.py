from __future__ import annotations

import math

import pytest

from outhaul.errors import ConfigurationError
from outhaul.retry import Retry


def test_each_failure_waits_its_delay_and_the_last_delay_repeats() -> None:
    retry = Retry(delays=(5, 30, 300), max_attempts=6)
    assert [retry.tier("shop.waybill", failed) for failed in range(1, 8)] == [
        "shop.waybill.retry.5s",
        "shop.waybill.retry.30s",
        "shop.waybill.retry.5m",
        "shop.waybill.retry.5m",
        "shop.waybill.retry.5m",
        None,
        None,
    ]


def test_short_delays_have_names_of_their_own() -> None:
    assert Retry(delays=(0.25,)).tier("q", 1) == "q.retry.250ms"


def test_one_attempt_needs_no_delay() -> None:
    assert Retry(delays=(), max_attempts=1).tier("q", 1) is None


@pytest.mark.parametrize("delay", [0, -1, math.nan, math.inf, 86_401])
def test_a_delay_no_queue_can_have_is_refused(delay: float) -> None:
    with pytest.raises(ConfigurationError, match=r"Retry\.delays"):
        Retry(delays=(delay,))


def test_retries_without_a_delay_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_attempts=1"):
        Retry(delays=())


@pytest.mark.parametrize("attempts", [0, -1, 1001])
def test_a_bound_that_bounds_nothing_is_refused(attempts: int) -> None:
    with pytest.raises(ConfigurationError, match="max_attempts"):
        Retry(max_attempts=attempts)

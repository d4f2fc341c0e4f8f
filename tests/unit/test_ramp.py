from __future__ import annotations

import pytest

from outhaul.consuming.ramp import Ramp
from outhaul.errors import ConfigurationError


def climb(ramp: Ramp) -> list[int]:
    seen = [ramp.prefetch]
    for _ in range(10_000):
        ramp.settled(1, redelivered=0, seconds=0.001)
        if ramp.should_rise(ramp.prefetch):
            seen.append(ramp.rise())
    return seen


def test_it_starts_with_one_message_and_rises_to_the_full_window() -> None:
    assert climb(Ramp(500)) == [1, 16, 500]


def test_a_small_window_is_reached_without_passing_it() -> None:
    assert climb(Ramp(8)) == [1, 8]
    assert climb(Ramp(1)) == [1]


def test_it_rises_only_after_a_run_of_messages_that_were_not_redelivered() -> None:
    ramp = Ramp(500)
    for _ in range(9):
        ramp.settled(1, redelivered=0, seconds=0.001)
    assert not ramp.should_rise(1)
    ramp.settled(1, redelivered=1, seconds=0.001)
    for _ in range(9):
        ramp.settled(1, redelivered=0, seconds=0.001)
    assert not ramp.should_rise(1)
    ramp.settled(1, redelivered=0, seconds=0.001)
    assert ramp.should_rise(1)


def test_it_rises_only_while_every_slot_is_taken() -> None:
    ramp = Ramp(500)
    ramp.settled(10, redelivered=0, seconds=0.001)
    assert not ramp.should_rise(0)
    assert ramp.should_rise(1)
    ramp.rise()
    ramp.settled(100, redelivered=0, seconds=0.001)
    assert not ramp.should_rise(15)
    assert ramp.should_rise(16)


def test_a_new_connection_starts_at_one_again() -> None:
    ramp = Ramp(500)
    climb(ramp)
    ramp.restart()
    assert ramp.prefetch == 1
    assert not ramp.should_rise(1)


def test_a_slow_handler_never_gets_a_window_whose_last_message_would_wait_too_long() -> None:
    ramp = Ramp(500, hold_seconds=60)
    ramp.settled(20, redelivered=0, seconds=40.0)
    assert ramp.should_rise(1)
    assert ramp.rise() == 16
    ramp.settled(100, redelivered=0, seconds=200.0)
    assert not ramp.should_rise(16)


@pytest.mark.parametrize("prefetch", [0, -1, 65_536])
def test_a_prefetch_the_protocol_cannot_carry_is_refused(prefetch: int) -> None:
    with pytest.raises(ConfigurationError, match="prefetch"):
        Ramp(prefetch)

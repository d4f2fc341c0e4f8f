from hypothesis import given
from hypothesis import strategies as st

from outhaul_local.restarts import FIRST_DELAY_SECONDS, HEALTHY_SECONDS, LONGEST_DELAY_SECONDS, Restarts


def test_the_first_death_is_followed_by_a_start_at_once() -> None:
    restarts = Restarts()
    restarts.found_dead(100.0)
    assert restarts.is_due(100.0)


def test_what_runs_is_never_due() -> None:
    restarts = Restarts()
    assert not restarts.is_due(100.0)
    restarts.found_dead(100.0)
    restarts.started(100.0)
    assert not restarts.is_due(200.0)


def test_a_death_soon_after_a_start_waits_and_each_next_one_longer() -> None:
    restarts = Restarts()
    now, waits = 0.0, []
    for _ in range(12):
        restarts.found_dead(now)
        waits.append(restarts.not_before - now)
        now = restarts.not_before
        restarts.started(now)
    assert waits[:4] == [0.0, FIRST_DELAY_SECONDS, 2 * FIRST_DELAY_SECONDS, 4 * FIRST_DELAY_SECONDS]
    assert waits[-1] == LONGEST_DELAY_SECONDS


def test_a_healthy_while_makes_the_next_death_the_first_again() -> None:
    restarts = Restarts()
    for now in (0.0, 1.0, 2.0):
        restarts.found_dead(now)
        restarts.started(now)
    restarts.found_dead(2.0 + HEALTHY_SECONDS)
    assert restarts.is_due(2.0 + HEALTHY_SECONDS)


@given(st.lists(st.floats(0, 5), min_size=1, max_size=50))
def test_the_same_death_seen_again_moves_nothing(pauses: list[float]) -> None:
    restarts = Restarts()
    restarts.found_dead(0.0)
    restarts.started(0.0)
    restarts.found_dead(1.0)
    due_at, now = restarts.not_before, 1.0
    for pause in pauses:
        now += pause
        restarts.found_dead(now)
    assert restarts.not_before == due_at

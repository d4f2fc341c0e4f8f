"""Processes that die, stand still, or are replaced while orders come in. Each run ends with the ledger's verdict."""

from __future__ import annotations

import pytest

from chaos.system import System, at_random, lasts

pytestmark = pytest.mark.chaos


@pytest.mark.chaos_quick
def test_functions_killed_at_random_lose_and_double_no_order(system: System) -> None:
    system.start()
    with system.load() as load:
        load.more(20)
        for _ in range(4):
            victim = system.rng.choice(system.functions)
            lasts(system.rng.random() * 0.7)
            victim.restart()
            load.more(10)
        for function in system.functions:
            function.wait_ready()
        system.settle(load.finish())
    assert system.spent_attempts() == 0


def test_functions_killed_again_and_again_at_random_lose_and_double_no_order(system: System) -> None:
    system.start()
    with system.load(rate=100) as load:
        load.more(20)
        kills = [function.restart for function in system.functions]
        at_random(system.rng, kills, rounds=20, most_seconds=1.5)
        for function in system.functions:
            function.wait_ready()
        system.settle(load.finish())


def test_all_functions_killed_at_once_come_back_to_a_whole_ledger(system: System) -> None:
    system.start()
    with system.load() as load:
        for _ in range(3):
            load.more(30)
            for function in system.functions:
                function.kill()
            for function in system.functions:
                function.start()
            for function in system.functions:
                function.wait_ready()
        system.settle(load.finish())


@pytest.mark.chaos_quick
def test_a_sender_that_stands_still_past_its_lease_doubles_nothing_when_it_goes_on(system: System) -> None:
    system.start()
    with system.load() as load:
        load.more(30)
        system.orders[0].freeze()
        lasts(8)  # past the lease: the other sender takes over what this one holds
        system.orders[0].thaw()
        load.more(30)
        system.settle(load.finish())


def test_a_consumer_that_stands_still_is_replaced_by_another_and_doubles_nothing(system: System) -> None:
    system.start()
    with system.load() as load:
        load.more(50)
        system.waybills[0].freeze()
        made = system.made()
        load.more(200, seconds=60)
        assert system.made() > made, "the other one goes on"
        lasts(8)  # past the heartbeat: its messages are given to the other
        system.waybills[0].thaw()
        load.more(30)
        system.settle(load.finish())


def test_rolling_restarts_under_load_dead_letter_nothing(system: System) -> None:
    system.start()
    with system.load() as load:
        for _ in range(10):
            for function in system.functions:
                load.more(5)
                function.restart(kill=False)
                function.wait_ready()
        told = load.finish()
    system.settle(told)
    assert system.spent_attempts() == 0

"""Links that fail in every way a link can, one at a time. Each run ends with the ledger's verdict."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chaos.system import System, lasts
from support_proxy import Proxy

pytestmark = pytest.mark.chaos

LINKS = ("order_to_broker", "order_to_database", "waybill_to_broker", "waybill_to_database")
Fault = Callable[[Proxy], None]
FAULTS: dict[str, Fault] = {
    "latency": lambda proxy: proxy.delay(0.15),
    "blackhole": Proxy.blackhole,
    "reset": Proxy.reset,
    "half_open": Proxy.swallow_answers,
    "stopped": Proxy.stop,
    "cut": lambda proxy: proxy.cut_after(1000),
}


def mend(proxy: Proxy) -> None:
    proxy.heal()
    if not proxy.is_listening:
        proxy.start()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("link", LINKS)
def test_a_link_that_fails_for_a_while_costs_no_order(link: str, fault: str, system: System) -> None:
    system.start()
    proxy: Proxy = getattr(system.links, link)
    with system.load() as load:
        load.more(20)
        for _ in range(2):
            FAULTS[fault](proxy)
            lasts(1 + 3 * system.rng.random())
            mend(proxy)
            load.more(20)
        system.settle(load.finish())
    assert system.spent_attempts() == 0


@pytest.mark.chaos_quick
def test_every_link_failing_in_turn_costs_no_order(system: System) -> None:
    system.start()
    faults = list(FAULTS.values())
    system.rng.shuffle(faults)
    with system.load() as load:
        load.more(20)
        for proxy, fault in zip(system.links.all() * 2, faults, strict=False):
            fault(proxy)
            lasts(1 + system.rng.random())
            mend(proxy)
            load.more(5)
        system.settle(load.finish())
    assert system.spent_attempts() == 0


def test_a_link_that_closes_slowly_costs_no_order(system: System) -> None:
    system.start()
    with system.load() as load:
        for proxy in system.links.all():
            load.more(20)
            proxy.close_slowly(3)
            proxy.cut_after(500)
            lasts(4)
            mend(proxy)
        system.settle(load.finish())


def test_streams_cut_in_the_middle_of_a_frame_cost_no_order(system: System) -> None:
    system.start()
    with system.load() as load:
        for _ in range(8):
            load.more(5)
            system.rng.choice(system.links.all()).cut_after(system.rng.randrange(1, 3000))
        for proxy in system.links.all():
            proxy.heal()
        system.settle(load.finish())
    assert system.spent_attempts() == 0


def test_faults_at_random_on_all_links_at_once_cost_no_order(system: System) -> None:
    system.start(orders=2, waybills=2)
    with system.load(rate=80) as load:
        load.more(20)
        for _ in range(25):
            proxy = system.rng.choice(system.links.all())
            FAULTS[system.rng.choice(list(FAULTS))](proxy)
            lasts(system.rng.random())
            mend(system.rng.choice(system.links.all()))
        for proxy in system.links.all():
            mend(proxy)
        system.settle(load.finish())
    assert system.spent_attempts() == 0

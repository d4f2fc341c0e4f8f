"""Links that fail in every way a link can, one at a time. Each run ends with the ledger's verdict."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chaos.function import Function
from chaos.system import System, lasts
from support import poll
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
SILENT = ("blackhole", "half_open")
SLOW_SECONDS = 3.0
NOTICED_SECONDS = 30.0
# Nothing is wrong with the consumer's session as far as the kernel knows, for the proxy takes what it is sent; of a
# host that is really gone it would know after 15 s. Here liveness is what notices, and a supervisor starts it again.
LIVENESS_SECONDS = 90.0


def mend(proxy: Proxy) -> None:
    proxy.heal()
    if not proxy.is_listening:
        proxy.start()


def wait_connected_anew(proxy: Proxy, before: int) -> None:
    poll(lambda: proxy.accepted > before, seconds=NOTICED_SECONDS, what="a new connection")


def wait_unwell(functions: list[Function]) -> None:
    poll(lambda: all(each.answers("/healthz") != 200 for each in functions), seconds=LIVENESS_SECONDS, what="liveness")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("link", LINKS)
def test_a_link_that_fails_for_a_while_costs_no_order(link: str, fault: str, system: System) -> None:
    """And whoever has the link notices: it connects anew, while it is silent still or once it is there again."""
    system.start()
    proxy: Proxy = getattr(system.links, link)
    with system.load() as load:
        load.more(20)
        by_liveness = fault in SILENT and link == "waybill_to_database"
        for _ in range(1 if by_liveness else 2):
            before = proxy.accepted
            FAULTS[fault](proxy)
            lasts(1 + 3 * system.rng.random())
            if by_liveness:
                wait_unwell(system.waybills)
                for function in system.waybills:
                    function.restart()
            elif fault in SILENT:
                wait_connected_anew(proxy, before)
            mend(proxy)
            if fault != "latency":
                wait_connected_anew(proxy, before)
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


@pytest.mark.parametrize("link", LINKS)
def test_a_link_that_closes_slowly_costs_no_order(link: str, system: System) -> None:
    """The server's end is closed in order, and the function is told seconds later: what it says meanwhile is lost."""
    system.start()
    proxy: Proxy = getattr(system.links, link)
    with system.load() as load:
        load.more(20)
        for _ in range(2):
            before = proxy.accepted
            proxy.close_slowly(SLOW_SECONDS)
            proxy.end_upstreams()
            wait_connected_anew(proxy, before)
            mend(proxy)
            load.more(20)
        system.settle(load.finish())
    assert system.spent_attempts() == 0


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
    system.start()
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

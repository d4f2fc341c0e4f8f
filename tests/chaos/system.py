"""The data path under faults: functions as processes, a proxy before every server for each of them, the ledger."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg

from chaos.function import Function
from chaos.ledger import Told, Verdict, judge
from chaos.ledger_reading import backlog, queues, read
from chaos.load import CLIENTS, Load
from outhaul_local.tether import Tether
from support import BrokerUnderTest, poll
from support_amqp import through_port
from support_proxy import Proxy
from webhook_support import Webhook, webhook

# Bounds short enough for a scenario: what a killed sender held is taken over after 6 s, silence is noticed after 2.
SENDER = {"OUTHAUL_SENDER_LEASE": "6s", "OUTHAUL_SENDER_CONFIRM_TIMEOUT": "500ms", "OUTHAUL_DATABASE_TIMEOUT": "2s"}
HEARTBEAT = "?heartbeat=2s&connect_timeout=2s&blocked_timeout=5m"
ORDER, WAYBILL = "outhaul_order", "outhaul_waybill"


@dataclass(slots=True)
class Links:
    """The four links of the data path, each with a proxy of its own."""

    order_to_broker: Proxy
    order_to_database: Proxy
    waybill_to_broker: Proxy
    waybill_to_database: Proxy

    def all(self) -> list[Proxy]:
        """Every one of them."""
        return [self.order_to_broker, self.order_to_database, self.waybill_to_broker, self.waybill_to_database]


@dataclass(slots=True)
class System:
    """What a scenario is given. ``rng`` comes from the run's seed; ``verdict`` is set by :meth:`settle`."""

    order_dsn: str
    waybill_dsn: str
    broker: BrokerUnderTest
    links: Links
    alerts: Webhook
    folder: Path
    tether: Tether
    rng: random.Random
    orders: list[Function] = field(default_factory=list)
    waybills: list[Function] = field(default_factory=list)
    verdict: Verdict | None = None

    def start(
        self,
        *,
        orders: int = 2,
        waybills: int = 2,
        order_settings: dict[str, str] | None = None,
        waybill_settings: dict[str, str] | None = None,
        waybill_module: str = WAYBILL,
    ) -> None:
        """That many more of each function, ready."""
        common = {"OUTHAUL_ALERT_WEBHOOK_URL": self.alerts.url}
        there = len(self.orders), len(self.waybills)
        for _ in range(orders):
            settings = common | SENDER | self._addresses(ORDER) | (order_settings or {})
            self.orders.append(Function(ORDER, self.folder, self.tether, settings))
        for _ in range(waybills):
            settings = common | self._addresses(WAYBILL) | (waybill_settings or {})
            self.waybills.append(Function(waybill_module, self.folder, self.tether, settings))
        added = [*self.orders[there[0] :], *self.waybills[there[1] :]]
        for function in added:
            function.start()
        for function in added:
            function.wait_ready()

    @property
    def functions(self) -> list[Function]:
        """All of them."""
        return [*self.orders, *self.waybills]

    def load(self, *, rate: float = 60, prefix: str = "order", clients: int = CLIENTS) -> Load:
        """Clients of all order functions."""
        return Load([function.url for function in self.orders], rate=rate, prefix=prefix, clients=clients)

    def settle(self, told: Told, *, seconds: float = 60, letters: int = 0) -> Verdict:
        """Until the backlog is zero by itself, and then the ledger's verdict; AssertionError when it is not whole.

        ``letters`` is how many dead letters the scenario made; any other number is a breach.
        """
        began = time.monotonic()
        drained = self._drained(seconds, letters)
        took = time.monotonic() - began
        if letters:
            poll(lambda: "OuthaulDeadLetter" in self.alerts.names(), seconds=15, what="word of the dead letters")
        seen = read(self.order_dsn, self.waybill_dsn, self.broker)
        self.verdict = judge(told, seen, alerts=self.alerts.names(), drain_seconds=round(took, 2))
        assert drained or self.verdict.backlog, f"the backlog did not return to zero within {seconds:g} s"
        self.verdict.require_whole()
        assert self.verdict.dead_lettered == letters
        assert self.verdict.parked == 0
        assert not told.refused
        return self.verdict

    def wait_orders_fail(self, *, seconds: float = 20) -> None:
        """Until no order function is ready."""
        poll(lambda: all(each.answers("/readyz") != 200 for each in self.orders), seconds=seconds, what="unreadiness")

    def committed(self) -> int:
        """Orders there are."""
        return count(self.order_dsn, "SELECT count(*) FROM orders")

    def made(self) -> int:
        """Waybills there are."""
        return count(self.waybill_dsn, "SELECT count(*) FROM waybills")

    def wait_made(self, wanted: int, *, seconds: float = 60) -> None:
        """Until there are that many waybills."""
        poll(lambda: self.made() >= wanted, seconds=seconds, what=f"{wanted} waybills")

    def pending(self) -> int:
        """Rows to be sent."""
        return count(self.order_dsn, "SELECT count(*) FROM outbox")

    def spent_attempts(self) -> int:
        """Attempts that any row has spent, sent or not."""
        waiting = count(self.order_dsn, "SELECT coalesce(sum(attempts), 0) FROM outbox")
        return waiting + count(self.order_dsn, "SELECT coalesce(sum(attempts), 0) FROM outbox_sent")

    def _drained(self, seconds: float, letters: int) -> bool:
        def empty() -> bool:
            try:
                there = self._letters()
                # A letter may be with nobody for a while: the broker says little of what awaits dead-lettering.
                arrived = there >= letters and self.made() + there >= self.committed()
                return arrived and backlog(self.order_dsn, self.broker) == 0
            except (psycopg.Error, httpx.HTTPError):
                return False

        try:
            return poll(empty, seconds=seconds, what="an empty backlog")
        except AssertionError:
            return False

    def _letters(self) -> int:
        return sum(
            int(each.get("messages") or 0) for name, each in queues(self.broker).items() if name.endswith(".dlq")
        )

    def _addresses(self, module: str) -> dict[str, str]:
        to_broker, to_database, dsn, name = (
            (self.links.order_to_broker, self.links.order_to_database, self.order_dsn, "OUTHAUL_ORDER_DATABASE_URL")
            if module == ORDER
            else (
                self.links.waybill_to_broker,
                self.links.waybill_to_database,
                self.waybill_dsn,
                "OUTHAUL_WAYBILL_DATABASE_URL",
            )
        )
        return {
            "OUTHAUL_AMQP_URL": through_port(self.broker.amqp_url, to_broker.port) + HEARTBEAT,
            name: through_port(dsn, to_database.port),
        }


def count(dsn: str, query: str) -> int:
    """The one number that a query gives."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def assembled(
    dsns: tuple[str, str],
    broker: BrokerUnderTest,
    folder: Path,
    tether: Tether,
    rng: random.Random,
    *,
    more_nodes: Sequence[tuple[str, int]] = (),
) -> Iterator[System]:
    """A system over databases and a broker that have their schema and topology; no function is started yet.

    ``more_nodes`` are the addresses of a cluster's other nodes, taken in turn as through a balancer.
    """
    with ExitStack() as stack:

        def before(url: str, *others: tuple[str, int]) -> Proxy:
            parts = urlsplit(url)
            return stack.enter_context(Proxy(parts.hostname or "", parts.port or 0, *others))

        links = Links(
            order_to_broker=before(broker.amqp_url, *more_nodes),
            order_to_database=before(dsns[0]),
            waybill_to_broker=before(broker.amqp_url, *more_nodes),
            waybill_to_database=before(dsns[1]),
        )
        told = stack.enter_context(webhook())
        system = System(*dsns, broker, links, told, folder, tether, rng)
        try:
            yield system
        finally:
            for function in system.functions:
                function.thaw()
                function.kill()


def lasts(seconds: float) -> None:
    """Some faults are a matter of time alone, and nothing tells when they have done their work."""
    threading.Event().wait(seconds)


def at_random(rng: random.Random, actions: Sequence[Callable[[], None]], *, rounds: int, most_seconds: float) -> None:
    """``rounds`` of the actions, chosen and spaced by ``rng``."""
    for _ in range(rounds):
        rng.choice(actions)()
        lasts(rng.random() * most_seconds)

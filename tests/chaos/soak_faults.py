"""What a soak may do to a running system: each fault lasts as long as its block, and belongs to a place.

Two faults of one place never overlap: a queue cannot be filled while its node is dead. Faults of different places may.
"""

from __future__ import annotations

import itertools
import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from chaos import broker_faults, database_faults
from chaos.cluster import Cluster
from chaos.function import Function
from chaos.ledger import Told
from chaos.load import Load
from chaos.servers import kill
from chaos.system import System
from outhaul_local.postgres import PostgresServer
from outhaul_local.tether import Tether
from outhaul_waybill.topology import EXCHANGE, QUEUE, ROUTING_KEY
from support_amqp import Amqp
from support_proxy import Proxy

LETTERS = f"{QUEUE}.dlq"
LOSES_LETTERS = "garbage, and no queue for letters"
LONGEST_SECONDS = 5.0
GARBAGE = (b"", b"{", b"5", b"\x00\xff\xfe", b"[]", b'{"specversion": "1.0", "id": "x", "source": "s"}')


@dataclass(slots=True)
class Ground:
    """What a soak runs on. ``told``, ``name`` and ``poison`` are of the round under way; poison gets no waybill."""

    system: System
    cluster: Cluster
    order: PostgresServer
    waybill: PostgresServer
    tether: Tether
    told: Told = field(default_factory=Told)
    name: str = ""
    poison: set[str] = field(default_factory=set)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def mend(self) -> None:
        """Everything runs and every link is whole. Raises LocalFailure, AssertionError."""
        for function in self.system.functions:
            function.thaw()
        for proxy in self.system.links.all():
            proxy.heal()
            if not proxy.is_listening:
                proxy.start()
        for server in (self.order, self.waybill):
            if not server.alive():
                server.start()
                if server.process is not None:
                    self.tether.hold(server.process)
        self.cluster.mend()

    def rabbitmqctl(self, *arguments: str) -> None:
        """The same on every node."""
        self.cluster.rabbitmqctl(*arguments)


Making = Callable[[Ground, random.Random], AbstractContextManager[Any]]


@dataclass(frozen=True, slots=True)
class Fault:
    """``make`` makes it when its block is entered and cures it when the block is left."""

    place: str
    name: str
    make: Making


def leaves_letters_twice(name: str) -> bool:
    """Whether a fault (``place: name``) may end a consumer, its link or the broker between a letter and its ack."""
    return name.startswith(("waybill function:", "waybill to broker:", "broker:"))


def menu() -> list[Fault]:
    """Every fault there is."""
    found = [
        *(Fault("order function", name, _processes(make, order=True)) for name, make in PROCESSES.items()),
        *(Fault("waybill function", name, _processes(make, order=False)) for name, make in PROCESSES.items()),
        *(Fault("waybill function", f"poison that {kind}s", _poison(kind)) for kind in ("raise", "kill", "hang")),
        *(Fault("broker", name, make) for name, make in BROKER.items()),
    ]
    for place, table in (("order", "orders"), ("waybill", "waybills")):
        found += [Fault(f"{place} database", name, make) for name, make in _database(place, table).items()]
    for link in ("order_to_broker", "order_to_database", "waybill_to_broker", "waybill_to_database"):
        found += [Fault(link.replace("_", " "), name, _link(link, hurt)) for name, hurt in LINK.items()]
    return found


def _processes(make: Callable[[Function], AbstractContextManager[Any]], *, order: bool) -> Making:
    return lambda ground, rng: make(rng.choice(ground.system.orders if order else ground.system.waybills))


@contextmanager
def _killed(function: Function) -> Iterator[None]:
    function.kill()  # its supervisor starts it again
    yield


@contextmanager
def _frozen(function: Function) -> Iterator[None]:
    function.freeze()
    try:
        yield
    finally:
        function.thaw()


@contextmanager
def _restarted(function: Function) -> Iterator[None]:
    function.stop()
    yield


PROCESSES = {"killed": _killed, "stands still": _frozen, "restarted in order": _restarted}


def _poison(kind: str) -> Making:
    @contextmanager
    def make(ground: Ground, _: random.Random) -> Iterator[None]:
        """One order that its handler fails on for ever: a dead letter, and no other."""
        urls = [function.url for function in ground.system.orders]
        prefix = f"{kind}-{ground.name}-poison{next(ground.numbers)}"
        with Load(urls, rate=2, prefix=prefix, clients=1) as load:
            load.more(1, seconds=60)
            told = load.finish(seconds=60)
        ground.told.attempted |= told.attempted
        ground.told.acknowledged.update(told.acknowledged)
        ground.told.unknown.update(told.unknown)
        ground.poison |= set(told.acknowledged)
        yield

    return make


def _link(name: str, hurt: Callable[[Proxy, random.Random], None]) -> Making:
    @contextmanager
    def make(ground: Ground, rng: random.Random) -> Iterator[None]:
        proxy: Proxy = getattr(ground.system.links, name)
        hurt(proxy, rng)
        try:
            yield
        finally:
            proxy.heal()
            if not proxy.is_listening:
                proxy.start()

    return make


def _close_slowly(proxy: Proxy, seconds: float) -> None:
    proxy.close_slowly(seconds)
    proxy.end_upstreams()


LINK: dict[str, Callable[[Proxy, random.Random], None]] = {
    "slow": lambda proxy, rng: proxy.delay(rng.uniform(0.02, 0.3)),
    "blackhole": lambda proxy, _: proxy.blackhole(),
    "reset": lambda proxy, _: proxy.reset(),
    "half open": lambda proxy, _: proxy.swallow_answers(),
    "refused": lambda proxy, _: proxy.stop(),
    "closes slowly": lambda proxy, rng: _close_slowly(proxy, rng.uniform(1, 4)),
    "cut in a frame": lambda proxy, rng: proxy.cut_after(rng.randrange(1, 5000)),
}


def _database(place: str, table: str) -> dict[str, Making]:
    def server(ground: Ground) -> PostgresServer:
        return ground.order if place == "order" else ground.waybill

    def dsn(ground: Ground) -> str:
        return ground.system.order_dsn if place == "order" else ground.system.waybill_dsn

    @contextmanager
    def killed(ground: Ground, _: random.Random) -> Iterator[None]:
        kill(server(ground))
        yield
        ground.mend()

    @contextmanager
    def stopped(ground: Ground, _: random.Random) -> Iterator[None]:
        server(ground).stop()
        yield
        ground.mend()

    @contextmanager
    def partitionless(ground: Ground, _: random.Random) -> Iterator[None]:
        database_faults.detach_partitions(ground.system.order_dsn, "outbox_sent")
        yield  # it stays so: what lies in the default partition by now keeps the days' own from being made again

    # Not the consumer's: what it knows to be done would be forgotten with them.
    only_here: dict[str, Making] = {"history partitions missing": partitionless} if place == "order" else {}
    return {
        **only_here,
        "killed": killed,
        "stopped in order": stopped,
        "read-only": lambda ground, _: database_faults.read_only(dsn(ground)),
        "locked table": lambda ground, _: database_faults.locked(dsn(ground), table),
        "no connection left": lambda ground, _: database_faults.slots_exhausted(
            dsn(ground), server(ground).max_connections
        ),
        "serialization failures": lambda ground, _: database_faults.failing_inserts(dsn(ground), table, "40001"),
        "deadlocks": lambda ground, _: database_faults.failing_inserts(dsn(ground), table, "40P01"),
    }


def _nodes(count: int) -> Making:
    @contextmanager
    def make(ground: Ground, rng: random.Random) -> Iterator[None]:
        ground.cluster.kill(*rng.sample(ground.cluster.nodes, count))
        yield
        ground.cluster.mend()

    return make


@contextmanager
def _node_frozen(ground: Ground, rng: random.Random) -> Iterator[None]:
    node = rng.choice(ground.cluster.nodes)
    ground.cluster.freeze(node)
    yield
    # On 3.10 one that was believed dead stays mute when it goes on.
    ground.cluster.kill(node)
    ground.cluster.mend()


@contextmanager
def _node_restarted(ground: Ground, rng: random.Random) -> Iterator[None]:
    ground.cluster.restart(rng.choice(ground.cluster.nodes))
    yield


@contextmanager
def _partition(ground: Ground, rng: random.Random) -> Iterator[None]:
    ground.cluster.cut_off(rng.choice(ground.cluster.nodes))
    try:
        yield
    finally:
        ground.cluster.join_again()


@contextmanager
def _unbound(ground: Ground, _: random.Random) -> Iterator[None]:
    with Amqp(ground.system.broker) as amqp:
        amqp.unbind(QUEUE, EXCHANGE, ROUTING_KEY)
    try:
        yield
    finally:
        broker_faults.put_back(ground.system.broker)


@contextmanager
def _letters(ground: Ground, rng: random.Random) -> Iterator[None]:
    """A few messages of garbage: each a dead letter."""
    with Amqp(ground.system.broker) as amqp:
        for _ in range(rng.randrange(1, 6)):
            message_id = f"garbage-{ground.name}-{next(ground.numbers)}"
            amqp.publish(EXCHANGE, ROUTING_KEY, rng.choice(GARBAGE), message_id=message_id)
            ground.told.injected.add(message_id)
    yield


@contextmanager
def _letters_without_room(ground: Ground, rng: random.Random) -> Iterator[None]:
    with broker_faults.small(ground.system.broker, LETTERS, 1), _letters(ground, rng):
        yield


@contextmanager
def _letters_without_queue(ground: Ground, rng: random.Random) -> Iterator[None]:
    """For a round that has made no letters yet: those in the queue go with it."""
    with broker_faults.deleted(ground.system.broker, "queues", LETTERS), _letters(ground, rng):
        yield


@contextmanager
def _copies(ground: Ground, _: random.Random) -> Iterator[None]:
    """Every message comes twice."""
    name = f"copies-{uuid.uuid4()}"
    with Amqp(ground.system.broker) as amqp:
        amqp.queue(
            name,
            (EXCHANGE, ROUTING_KEY),
            x_message_ttl=200,
            x_dead_letter_exchange="outhaul.retry",
            x_dead_letter_routing_key=QUEUE,
            x_dead_letter_strategy="at-least-once",
            x_overflow="reject-publish",
        )
    yield
    with Amqp(ground.system.broker) as amqp:
        amqp.unbind(name, EXCHANGE, ROUTING_KEY)


@contextmanager
def _connections_closed(ground: Ground, _: random.Random) -> Iterator[None]:
    broker_faults.close_connections(ground.system.broker)
    yield


BROKER: dict[str, Making] = {
    "one node killed": _nodes(1),
    "two nodes killed": _nodes(2),
    "all nodes killed": _nodes(3),
    "node stands still": _node_frozen,
    "node restarted in order": _node_restarted,
    "node cut off from the others": _partition,
    "memory alarm": lambda ground, _: broker_faults.alarm(ground.rabbitmqctl, "memory"),
    "disk alarm": lambda ground, _: broker_faults.alarm(ground.rabbitmqctl, "disk"),
    "binding removed": _unbound,
    "exchange deleted": lambda ground, _: broker_faults.deleted(ground.system.broker, "exchanges", EXCHANGE),
    "queue full": lambda ground, _: broker_faults.small(ground.system.broker, QUEUE, 3),
    "may not write": lambda ground, _: broker_faults.forbidden(ground.system.broker, "write"),
    "may not read": lambda ground, _: broker_faults.forbidden(ground.system.broker, "read"),
    "connections closed": _connections_closed,
    "garbage": _letters,
    "garbage, and no room for letters": _letters_without_room,
    LOSES_LETTERS: _letters_without_queue,
    "every message twice": _copies,
}

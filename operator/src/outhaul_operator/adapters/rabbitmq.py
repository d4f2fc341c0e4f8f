"""What the operator sees of brokers: by the management API, or as far as AMQP tells where that is not given.

Each part of a look (the login, alarms, an exchange, a queue, the topology) is shared by all who ask for it within a few
seconds. Calls of the management API block, so they have threads of their own; a host that was dead at the last look
waits for one of a few, and is taken as dead still while those are busy with others like it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from outhaul.broker_admin import depths, live_routes, topology_apply
from outhaul.broker_admin.depths import Depths
from outhaul.broker_admin.live_routes import LiveSource
from outhaul.broker_admin.management import Management
from outhaul.broker_admin.topology_diff import Difference
from outhaul.errors import ConfigurationError, OuthaulError
from outhaul.settings import BrokerSettings, ManagementSettings
from outhaul.topology import Topology, dead_letter_queue
from outhaul_operator import troubles
from outhaul_operator.adapters.amqp_probe import AmqpView, probe
from outhaul_operator.adapters.database_links import names_a_file
from outhaul_operator.adapters.letters_seen import Letters, LettersSeen
from outhaul_operator.adapters.shared_looks import SharedLooks
from outhaul_operator.ports import BrokerUrls
from outhaul_operator.snapshot import BrokerView, Trouble, WaitingRoute

T = TypeVar("T")

KEEP_SECONDS: Final = 5.0
LOGIN_SECONDS: Final = 60.0
"""A login that went well is tried again after this, or at once when the management API is away."""
TOPOLOGY_SECONDS: Final = 20.0
THREADS: Final = 64
THREADS_FOR_THE_DEAD: Final = 8
_MOST_KEPT: Final = 2000

_NOT_GIVEN: Final = Trouble(
    "ManagementNotGiven",
    "bindings, alarms and the topology are not seen without the management API; add the entry management-url to the "
    "broker's Secret",
)


@dataclass(frozen=True, slots=True)
class _Broker:
    """One broker, as one Secret says how to reach it."""

    amqp: BrokerSettings
    management: ManagementSettings | None
    key: Hashable


class RabbitBrokers:
    """`outhaul_operator.ports.Brokers`. Every look ends within ``timeout_seconds``."""

    def __init__(self, *, timeout_seconds: float, keep_seconds: float = KEEP_SECONDS) -> None:
        self._timeout_seconds = timeout_seconds
        self._keep_seconds = keep_seconds
        self._looks = SharedLooks()
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="ask a broker")
        self._dead: dict[Hashable, Trouble] = {}
        self._for_the_dead = asyncio.Semaphore(THREADS_FOR_THE_DEAD)
        self._letters: dict[Hashable, LettersSeen] = {}

    async def close(self) -> None:
        """Give up what is under way."""
        await self._looks.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def look(
        self,
        urls: BrokerUrls,
        *,
        routes: Sequence[WaitingRoute] = (),
        queue: str | None = None,
        topology: Topology | Trouble | None = None,
    ) -> BrokerView | Trouble:
        """Alarms, whether these routes lead somewhere, the depths of an inbox's ``queue``, drift from ``topology``."""
        broker = self._parsed(urls)
        if isinstance(broker, Trouble):
            return broker
        try:
            async with asyncio.timeout(self._timeout_seconds):
                if broker.management is None:
                    return await self._by_amqp(broker, _NOT_GIVEN, routes, queue, topology)
                login, base = await asyncio.gather(self._login(broker), self._base(broker))
                if isinstance(login, Trouble):
                    return login
                if isinstance(base, Trouble):
                    return await self._by_amqp(broker, base, routes, queue, topology)
                return await self._by_management(broker, base, routes, queue, topology)
        except TimeoutError:
            return troubles.timed_out("broker", broker.amqp.address, self._timeout_seconds)
        except OuthaulError as error:
            return troubles.of_broker(error)

    def _parsed(self, urls: BrokerUrls) -> _Broker | Trouble:
        for name, url in (("AMQP URL", urls.amqp), ("management URL", urls.management)):
            if url and names_a_file(url):
                return troubles.file_named(name)
        try:
            amqp = BrokerSettings.parse(urls.amqp, setting="AMQP URL")
            management = (
                ManagementSettings.parse(urls.management, setting="management URL") if urls.management else None
            )
        except ConfigurationError as error:
            return troubles.secret_invalid(error)
        if management is not None:
            # Where it does not answer, there is time left to ask by AMQP.
            management = replace(management, timeout_seconds=self._timeout_seconds * 0.5)
        # Not the URLs themselves: keys outlive a Secret that is rotated.
        key = hashlib.sha256(f"{urls.amqp}\n{urls.management}".encode(errors="replace")).digest()
        return _Broker(replace(amqp, connect_timeout_seconds=self._timeout_seconds), management, key)

    async def _by_amqp(
        self,
        broker: _Broker,
        unseen: Trouble,
        routes: Sequence[WaitingRoute],
        queue: str | None,
        topology: Topology | Trouble | None,
    ) -> BrokerView | Trouble:
        exchanges = frozenset(route.exchange for route in routes if route.exchange)
        dead = None if queue is None else dead_letter_queue(queue)
        queues = () if queue is None or dead is None else (queue, dead)
        ask = self._probe(broker, exchanges, queues)
        key = (broker.key, "amqp", exchanges, queues)
        seen = await self._looks.get(key, ask, keep_seconds=lambda _: self._keep_seconds)
        if isinstance(seen, Trouble):
            return seen
        found = None
        if queue and dead and not seen.hidden:
            found = Depths(main=seen.depths.get(queue), dead=seen.depths.get(dead))
        return BrokerView(
            version=seen.version,
            missing_exchanges=seen.missing_exchanges,
            differences=None if topology is None else topology if isinstance(topology, Trouble) else unseen,
            unseen=unseen,
            depths=found,
        )

    async def _by_management(
        self,
        broker: _Broker,
        base: _Base,
        routes: Sequence[WaitingRoute],
        queue: str | None,
        topology: Topology | Trouble | None,
    ) -> BrokerView | Trouble:
        missing, unrouted = await self._routes(broker, routes)
        found, letters = (None, Letters()) if queue is None else await self._queue(broker, queue)
        return BrokerView(
            version=base.version,
            alarms=base.alarms,
            missing_exchanges=missing,
            unrouted=unrouted,
            differences=await self._differences(broker, topology),
            depths=found,
            dead_reasons=letters.reasons,
            oldest_dead_at=letters.oldest_at,
        )

    async def _login(self, broker: _Broker) -> AmqpView | Trouble:
        def keep_seconds(seen: AmqpView | Trouble) -> float:
            return LOGIN_SECONDS if isinstance(seen, AmqpView) else self._keep_seconds

        ask = self._probe(broker, frozenset(), ())
        return await self._looks.get((broker.key, "login"), ask, keep_seconds=keep_seconds)

    def _probe(
        self, broker: _Broker, exchanges: frozenset[str], queues: tuple[str, ...]
    ) -> Callable[[], Awaitable[AmqpView | Trouble]]:
        async def ask() -> AmqpView | Trouble:
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    return await probe(
                        broker.amqp, exchanges=exchanges, queues=queues, timeout_seconds=self._timeout_seconds
                    )
            except TimeoutError:
                return troubles.timed_out("broker", broker.amqp.address, self._timeout_seconds)
            except OuthaulError as error:
                return troubles.of_broker(error)

        return ask

    async def _base(self, broker: _Broker) -> _Base | Trouble:
        """Version and alarms: what is asked first, so that a dead host costs one thread."""

        def ask(api: Management) -> _Base:
            return _Base(".".join(map(str, api.version())), api.alarms())

        async def make() -> _Base | Trouble:
            earlier = self._dead.get(broker.key)
            if earlier is None:
                return await self._asked(broker, ask)
            if self._for_the_dead.locked():
                return earlier
            async with self._for_the_dead:
                return await self._asked(broker, ask)

        seen = await self._looks.get((broker.key, "base"), make, keep_seconds=lambda _: self._keep_seconds)
        if isinstance(seen, Trouble):
            self._dead[broker.key] = seen
            _bound(self._dead)
        else:
            self._dead.pop(broker.key, None)
        return seen

    async def _routes(
        self, broker: _Broker, routes: Sequence[WaitingRoute]
    ) -> tuple[frozenset[str], frozenset[tuple[str, str]]]:
        exchanges = {route.exchange for route in routes if route.exchange}
        reached = {name: await self._sources(broker, name) for name in sorted(exchanges)}
        missing = {name for name in exchanges if reached[name][name] is None}
        unrouted = set()
        for exchange, routing_key, *_ in routes:
            if not exchange:
                # The default exchange: the routing key is a queue's name.
                leads = await self._part(broker, ("queue there", routing_key), _has_queue(routing_key))
            else:
                leads = exchange in missing or live_routes.leads_to_a_queue(
                    reached[exchange].get, exchange, routing_key
                )
            if not leads:
                unrouted.add((exchange, routing_key))
        return frozenset(missing), frozenset(unrouted)

    async def _sources(self, broker: _Broker, exchange: str) -> dict[str, LiveSource | None]:
        """The exchange and those that it hands messages on to."""
        found: dict[str, LiveSource | None] = {}
        open_names = [exchange]
        while open_names:
            name = open_names.pop()
            if name in found:
                continue
            source = await self._part(broker, ("exchange", name), _source(name))
            found[name] = source
            if source is not None:
                open_names += [each.destination for each in source.bindings if each.to_exchange]
                open_names += [source.alternate] if source.alternate else []
        return found

    async def _queue(self, broker: _Broker, queue: str) -> tuple[Depths, Letters]:
        dead = dead_letter_queue(queue)
        key = (broker.key, dead)
        letters = self._letters.setdefault(key, LettersSeen(broker.amqp, dead, answer_seconds=self._timeout_seconds))
        _bound(self._letters)

        def ask(api: Management) -> tuple[Depths, Letters]:
            found = depths.look(api, queue)
            total = found.dead.total if found.dead is not None else None
            return found, letters.look(total) if total is not None else Letters()

        return await self._part(broker, ("queue", queue), ask)

    async def _differences(
        self, broker: _Broker, topology: Topology | Trouble | None
    ) -> tuple[Difference, ...] | Trouble | None:
        if topology is None or isinstance(topology, Trouble):
            return topology
        management = broker.management
        assert management is not None

        def ask(_: Management) -> tuple[Difference, ...]:
            return tuple(topology_apply.diff(topology, broker.amqp, management))

        try:
            return await self._part(broker, ("topology", topology), ask, seconds=TOPOLOGY_SECONDS)
        except OuthaulError as error:
            return troubles.of_broker(error)

    async def _part(
        self, broker: _Broker, part: Hashable, ask: Callable[[Management], T], *, seconds: float | None = None
    ) -> T:
        keep = self._keep_seconds if seconds is None else seconds
        return await self._looks.get(
            (broker.key, part), lambda: self._in_thread(broker, ask), keep_seconds=lambda _: keep
        )

    async def _asked(self, broker: _Broker, ask: Callable[[Management], T]) -> T | Trouble:
        try:
            return await self._in_thread(broker, ask)
        except OuthaulError as error:
            return troubles.of_broker(error)

    async def _in_thread(self, broker: _Broker, ask: Callable[[Management], T]) -> T:
        assert broker.management is not None
        api = Management(broker.management, virtual_host=broker.amqp.virtual_host)
        return await asyncio.get_running_loop().run_in_executor(self._threads, ask, api)


@dataclass(frozen=True, slots=True)
class _Base:
    version: str
    alarms: tuple[str, ...]


def _bound(kept: dict[Hashable, T]) -> None:
    """Forget the oldest: what is still asked for comes back by itself."""
    while len(kept) > _MOST_KEPT:
        del kept[next(iter(kept))]


def _source(name: str) -> Callable[[Management], LiveSource | None]:
    return lambda api: live_routes.read_source(api, name)


def _has_queue(name: str) -> Callable[[Management], bool]:
    return lambda api: api.get_in_vhost("queues", name, query="?disable_stats=true&columns=name") is not None

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import pytest

from letter_support import QUEUE, open_shop
from outbox_support import in_loop
from outhaul.broker_admin import topology_apply
from outhaul.topology import Topology, consumer_topology
from outhaul_operator.adapters import rabbitmq
from outhaul_operator.adapters.rabbitmq import RabbitBrokers
from outhaul_operator.ports import BrokerUrls
from outhaul_operator.snapshot import BrokerView, Trouble, WaitingRoute
from support import BrokerUnderTest, apoll, poll
from support_amqp import Amqp, management, through_port
from support_proxy import Proxy

SECRET = "s3cret-w0rd"
TOPOLOGY = consumer_topology("shop.waybill", [("shop.events", "order.created")], retry_delays_seconds=(5,))


def route(exchange: str, routing_key: str) -> WaitingRoute:
    return WaitingRoute(exchange, routing_key, 1, 1)


@asynccontextmanager
async def brokers(seconds: float = 5.0, *, keep_seconds: float = 0.0) -> AsyncIterator[RabbitBrokers]:
    opened = RabbitBrokers(timeout_seconds=seconds, keep_seconds=keep_seconds)
    try:
        yield opened
    finally:
        await opened.close()


def urls(broker: BrokerUnderTest, **changes: str | None) -> BrokerUrls:
    given: dict[str, Any] = {"amqp": broker.amqp_url, "management": broker.management_url, **changes}
    return BrokerUrls(**given)


async def seen(where: BrokerUrls, on: RabbitBrokers | None = None, **what: Any) -> BrokerView:
    async with brokers() as one:
        view = await (on or one).look(where, **what)
    assert isinstance(view, BrokerView), view
    return view


async def trouble(where: BrokerUrls, *, seconds: float = 5.0) -> Trouble:
    async with brokers(seconds) as one:
        view = await one.look(where)
    assert isinstance(view, Trouble), view
    assert SECRET not in repr(view)
    return view


def changed(url: str, **parts: str) -> str:
    """The URL with another user, password, host, port, path or query."""
    found = urlsplit(url)
    user, password = parts.pop("user", found.username), parts.pop("password", found.password)
    host, port = parts.pop("host", found.hostname), parts.pop("port", str(found.port))
    return urlunsplit(found._replace(netloc=f"{user}:{password}@{host}:{port}", **parts))


@in_loop
async def test_routes_are_followed_through_the_live_bindings(broker: BrokerUnderTest) -> None:
    with Amqp(broker) as amqp, management(broker) as api:
        for name, kind in (("shop.events", "topic"), ("shop.direct", "direct"), ("shop.outer", "fanout")):
            amqp.exchange(name, kind)
        amqp.exchange("shop.policed")
        amqp.queue("shop.q", ("shop.events", "order.*"))
        api.post(f"/api/bindings/{broker.vhost}/e/shop.outer/e/shop.events", json={"routing_key": ""})
        api.put(
            f"/api/policies/{broker.vhost}/unrouted",
            json={"pattern": "^shop.policed$", "definition": {"alternate-exchange": "shop.events"}, "apply-to": "all"},
        )
    routes = [
        route("shop.events", "order.created"),
        route("shop.events", "invoice.paid"),
        route("shop.direct", "order.created"),
        route("shop.outer", "order.created"),
        route("shop.policed", "order.created"),
        route("shop.gone", "order.created"),
        route("", "shop.q"),
        route("", "shop.no-such-queue"),
    ]
    view = await seen(urls(broker), routes=routes)
    assert view.missing_exchanges == {"shop.gone"}
    assert view.unrouted == {
        ("shop.events", "invoice.paid"),
        ("shop.direct", "order.created"),
        ("", "shop.no-such-queue"),
    }
    assert (view.unseen, view.alarms) == (None, ())
    assert view.version == ".".join(map(str, broker.version))


@in_loop
async def test_a_binding_made_meanwhile_is_seen(broker: BrokerUnderTest) -> None:
    with Amqp(broker) as amqp:
        amqp.exchange("shop.events")
        amqp.queue("shop.q")
        async with brokers() as one:
            what = {"routes": [route("shop.events", "order.created")]}
            assert (await seen(urls(broker), one, **what)).unrouted
            amqp.bind("shop.q", "shop.events", "order.created")
            assert not (await seen(urls(broker), one, **what)).unrouted


@in_loop
async def test_depths_and_consumers_of_an_inbox_are_told(broker: BrokerUnderTest) -> None:
    with open_shop(broker) as shop:
        shop.publish(uuid4())
        shop.channel.basic_get(QUEUE)
        shop.publish(uuid4())
        shop.letter(reason="exhausted")
        async with brokers() as one:

            async def settled() -> BrokerView | None:
                view = await seen(urls(broker), one, queue=QUEUE)
                found = view.depths
                told = found and found.main and found.dead and (found.main.ready, found.main.unacked, found.dead.total)
                return view if told == (1, 1, 1) else None

            assert await apoll(settled, what="the counts", seconds=20)


@in_loop
async def test_dead_letters_tell_why_they_died_and_are_all_still_there(broker: BrokerUnderTest) -> None:
    with open_shop(broker) as shop:
        for _ in range(3):
            shop.letter(reason="exhausted")
        shop.letter(reason="malformed")
        async with brokers() as one:

            async def reasons() -> dict[str, int]:
                view = await seen(urls(broker), one, queue=QUEUE)
                return {each.reason: each.letters for each in view.dead_reasons if view.oldest_dead_at is not None}

            assert await apoll(reasons, what="the reasons", seconds=20) == {"exhausted": 3, "malformed": 1}
            poll(lambda: shop.depth() == 4, what="the letters to be given back")
            # Known now: not read again while nothing changes.
            again = await seen(urls(broker), one, queue=QUEUE)
            assert len(again.dead_reasons) == 2
            assert shop.depth() == 4


@in_loop
async def test_what_is_remembered_of_dead_letters_is_bounded(
    broker: BrokerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Secret that is rotated, and an Inbox that is deleted, leave a queue behind that nobody asks for again."""
    monkeypatch.setattr(rabbitmq, "_MOST_KEPT", 2)
    async with brokers() as one:
        for number in range(4):
            await seen(urls(broker), one, queue=f"shop.{number}")
        assert len(one._letters) == 2


@in_loop
async def test_drift_from_the_declared_topology_is_told(broker: BrokerUnderTest) -> None:
    topology_apply.apply(TOPOLOGY, broker.amqp_url, broker.management_url)
    assert not [each for each in (await differences(broker, TOPOLOGY)) if not each.harmless]
    with Amqp(broker) as amqp:
        amqp.unbind("shop.waybill", "shop.events", "order.created")
    assert [each.kind for each in await differences(broker, TOPOLOGY)] == ["missing-binding"]


async def differences(broker: BrokerUnderTest, topology: Topology) -> tuple[Any, ...]:
    view = await seen(urls(broker), topology=topology)
    assert isinstance(view.differences, tuple)
    return view.differences


@in_loop
async def test_a_topology_that_could_not_be_read_stays_a_trouble(broker: BrokerUnderTest) -> None:
    unread = Trouble("TopologyMissing", "no such ConfigMap")
    assert (await seen(urls(broker), topology=unread)).differences == unread


@in_loop
async def test_without_the_management_api_what_amqp_tells_is_told(broker: BrokerUnderTest) -> None:
    with open_shop(broker) as shop:
        shop.letter()
        routes = [route("shop.events", "nothing.bound"), route("shop.gone", "order.created")]
        view = await seen(urls(broker, management=None), routes=routes, queue=QUEUE, topology=TOPOLOGY)
        assert view.unseen is not None
        assert view.unseen.reason == "ManagementNotGiven"
        assert view.differences == view.unseen
        assert view.missing_exchanges == {"shop.gone"}
        assert not view.unrouted
        assert view.version == ".".join(map(str, broker.version))
        assert view.depths is not None
        assert view.depths.main is not None
        assert view.depths.dead is not None
        assert (view.depths.main.total, view.depths.dead.total) == (0, 1)
        gone = await seen(urls(broker, management=None), queue="shop.no-such-queue")
        assert gone.depths is not None
        assert gone.depths.main is None


@pytest.mark.parametrize(
    ("amqp", "reason", "words"),
    [
        ({"password": SECRET}, "CredentialsRefused", "user and password"),
        ({"path": "/nowhere"}, "CredentialsRefused", "virtual host"),
        ({"port": "1", "password": SECRET}, "Unreachable", "127.0.0.1:1.*connection refused"),
        ({"host": "no-such-host.invalid"}, "Unreachable", "host name is unknown"),
    ],
)
def test_what_keeps_a_broker_from_being_seen_is_told_with_its_remedy(
    amqp: dict[str, str], reason: str, words: str, broker: BrokerUnderTest
) -> None:
    for given in (None, broker.management_url):
        view = asyncio.run(trouble(urls(broker, amqp=changed(broker.amqp_url, **amqp), management=given)))
        assert view.reason == reason
        assert re.search(words, view.message), view.message


@pytest.mark.parametrize(
    ("management_url", "reason", "words"),
    [
        ({"password": SECRET}, "CredentialsRefused", "login refused"),
        ({"port": "1", "password": SECRET}, "Unreachable", "connection refused"),
    ],
)
def test_a_management_api_that_cannot_be_used_leaves_what_amqp_tells(
    management_url: dict[str, str], reason: str, words: str, broker: BrokerUnderTest
) -> None:
    where = urls(broker, management=changed(broker.management_url, **management_url))
    view = asyncio.run(seen(where, routes=[route("shop.gone", "k")]))
    assert view.unseen is not None
    assert (view.unseen.reason, SECRET in view.unseen.message) == (reason, False)
    assert words in view.unseen.message
    assert view.missing_exchanges == {"shop.gone"}


@pytest.mark.parametrize(
    "where",
    [
        BrokerUrls(amqp=""),
        BrokerUrls(amqp=SECRET),
        BrokerUrls(amqp=f"http://u:{SECRET}@h/"),
        BrokerUrls(amqp=f"amqp://u:{SECRET}/x@h/"),
        BrokerUrls(amqp="amqp://u@h/?password_file=/var/run/secrets/kubernetes.io/serviceaccount/token"),
        BrokerUrls(amqp="amqp://u@h/?passw%6Frd_file=/var/run/secrets/kubernetes.io/serviceaccount/token"),
        BrokerUrls(amqp=f"amqp://u:{SECRET}@h/", management=SECRET),
        BrokerUrls(amqp=f"amqp://u:{SECRET}@h/", management="http://u@h/?password_file=/etc/hostname"),
    ],
)
def test_an_address_that_cannot_be_used_is_told_without_being_shown(where: BrokerUrls) -> None:
    view = asyncio.run(trouble(where))
    assert view.reason == "SecretInvalid"


@contextmanager
def user(broker: BrokerUnderTest, tags: str, **rights: str) -> Iterator[BrokerUrls]:
    """The URLs for a new user with that tag; permissions in the virtual host where any are given."""
    name = f"test-{uuid4().hex[:12]}"
    with management(broker) as api:
        api.put(f"/api/users/{name}", json={"password": SECRET, "tags": tags}).raise_for_status()
        if rights:
            body = {"configure": "^$", "write": "^$", "read": "^$"} | rights
            api.put(f"/api/permissions/{quote(broker.vhost, safe='')}/{name}", json=body).raise_for_status()
        yield BrokerUrls(
            amqp=changed(broker.amqp_url, user=name, password=SECRET),
            management=changed(broker.management_url, user=name, password=SECRET),
        )
        api.delete(f"/api/users/{name}").raise_for_status()


@in_loop
async def test_a_user_that_may_read_no_letters_still_sees_their_number(broker: BrokerUnderTest) -> None:
    with open_shop(broker) as shop, user(broker, "monitoring", write="^shop.events$") as where:
        shop.letter()
        async with brokers() as one:

            async def total() -> int | None:
                view = await seen(where, one, queue=QUEUE)
                return view.depths.dead.total if view.depths and view.depths.dead else None

            assert await apoll(total, seconds=20) == 1
            assert (await seen(where, one, queue=QUEUE)).dead_reasons == ()
            assert shop.depth() == 1


@in_loop
async def test_a_user_without_rights_in_the_virtual_host_is_refused_and_not_told_that_all_is_missing(
    broker: BrokerUnderTest,
) -> None:
    with user(broker, "monitoring") as where:
        view = await trouble(where)
    assert view.reason == "CredentialsRefused"
    with user(broker, "monitoring") as stranger:
        other = urls(broker, management=stranger.management)
        async with brokers() as one:
            told = await one.look(other, routes=[route("shop.gone", "k")])
        assert isinstance(told, Trouble)
        assert told.reason == "PermissionDenied"
        assert "set_permissions" in told.message


@in_loop
async def test_what_amqp_does_not_tell_a_user_is_unknown_and_not_missing(broker: BrokerUnderTest) -> None:
    with open_shop(broker), user(broker, "", write="^shop.events$") as where:
        view = await seen(BrokerUrls(amqp=where.amqp), routes=[route("shop.events", "k")], queue=QUEUE)
    assert not view.missing_exchanges
    # 4.x tells of a queue only to those with some right on it.
    assert (view.depths is None) is (broker.version >= (4, 0))


def through(broker: BrokerUnderTest, amqp: Proxy, api: Proxy) -> BrokerUrls:
    return BrokerUrls(
        amqp=through_port(broker.amqp_url, amqp.port), management=through_port(broker.management_url, api.port)
    )


@contextmanager
def proxies(broker: BrokerUnderTest) -> Iterator[tuple[Proxy, Proxy]]:
    found = [urlsplit(url) for url in (broker.amqp_url, broker.management_url)]
    with (
        Proxy(found[0].hostname or "", found[0].port or 0) as amqp,
        Proxy(found[1].hostname or "", found[1].port or 0) as api,
    ):
        yield amqp, api


def test_half_open_links_cost_a_look_its_deadline_and_no_more(broker: BrokerUnderTest) -> None:
    with proxies(broker) as (amqp, api):
        where = through(broker, amqp, api)
        amqp.blackhole()
        api.blackhole()
        began = time.monotonic()
        view = asyncio.run(trouble(where, seconds=1.0))
        assert time.monotonic() - began < 3
        assert view.reason == "TimedOut"


def test_a_half_open_management_api_leaves_what_amqp_tells(broker: BrokerUnderTest) -> None:
    async def run() -> BrokerView:
        async with brokers(4.0) as one:
            return await seen(where, one, routes=[route("shop.gone", "k")])

    with proxies(broker) as (amqp, api):
        where = through(broker, amqp, api)
        api.blackhole()
        view = asyncio.run(run())
    assert view.unseen is not None
    assert "no answer within 2 s" in view.unseen.message
    assert view.missing_exchanges == {"shop.gone"}


@in_loop
async def test_a_broker_that_comes_back_is_seen_at_the_next_look(broker: BrokerUnderTest) -> None:
    with proxies(broker) as (amqp, api):
        where = through(broker, amqp, api)
        async with brokers() as one:
            await seen(where, one)
            for proxy in (amqp, api):
                await asyncio.to_thread(proxy.stop)
            view = await one.look(where)
            assert isinstance(view, Trouble)
            assert view.reason == "Unreachable"
            for proxy in (amqp, api):
                await asyncio.to_thread(proxy.start)
            await seen(where, one)


@in_loop
async def test_many_who_look_at_one_broker_at_once_ask_it_once(broker: BrokerUnderTest) -> None:
    with Amqp(broker) as amqp:
        amqp.exchange("shop.events")
    with proxies(broker) as (amqp_proxy, api):
        where = through(broker, amqp_proxy, api)
        async with brokers(keep_seconds=60) as one:
            routes = [route("shop.events", "order.created")]
            views = await asyncio.gather(*(one.look(where, routes=routes) for _ in range(100)))
            assert all(isinstance(view, BrokerView) and view.unrouted for view in views)
            # Version, alarms, the exchange, its bindings.
            assert (api.accepted, amqp_proxy.accepted) == (4, 1)


@in_loop
async def test_fifty_dead_hosts_do_not_delay_the_living(broker: BrokerUnderTest) -> None:
    with Proxy("127.0.0.1", 1) as hole:
        hole.blackhole()
        dead = [
            BrokerUrls(amqp=f"amqp://u:p@127.0.0.1:{hole.port}/{n}", management=f"http://u:p@127.0.0.1:{hole.port}/{n}")
            for n in range(50)
        ]
        async with brokers(3.0) as one:
            for _ in range(2):
                looks = [asyncio.create_task(one.look(where)) for where in dead]
                began = time.monotonic()
                await seen(urls(broker), one)
                assert time.monotonic() - began < 2
                for view in await asyncio.gather(*looks):
                    assert isinstance(view, Trouble)

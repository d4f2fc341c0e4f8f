"""Faults of a broker that is otherwise well, each for as long as its block lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from chaos.servers import EVERYTHING
from outhaul.broker_admin.topology_apply import apply
from outhaul_waybill.topology import TOPOLOGY
from support import BrokerUnderTest
from support_amqp import management

FOREVER_MS = 1_800_000  # RabbitMQ's own default for consumer_timeout
Rabbitmqctl = Callable[..., Any]


def ask(broker: BrokerUnderTest, method: str, path: str, body: object = None) -> httpx.Response:
    """One call of the management API. Raises httpx.HTTPError."""
    with management(broker) as client:
        return client.request(method, f"/api/{path}", json=body).raise_for_status()


def put_back(broker: BrokerUnderTest) -> None:
    """Declare the whole topology again."""
    apply(TOPOLOGY, broker.amqp_url, broker.management_url)


@contextmanager
def overruled(broker: BrokerUnderTest, queue: str, **definition: object) -> Iterator[None]:
    """The queue's policy says this as well (``max_length=2``), and all else as before."""
    vhost = quote(broker.vhost, safe="")
    policies = ask(broker, "GET", f"policies/{vhost}").json()
    # Of two policies the one with the higher priority applies alone, so it repeats the other.
    own = next(each for each in policies if each["name"] == queue)
    body = {
        "pattern": own["pattern"],
        "apply-to": own["apply-to"],
        "priority": own["priority"] + 1,
        "definition": {**own["definition"], **{name.replace("_", "-"): value for name, value in definition.items()}},
    }
    ask(broker, "PUT", f"policies/{vhost}/overruling", body)
    try:
        yield
    finally:
        ask(broker, "DELETE", f"policies/{vhost}/overruling")


def small(broker: BrokerUnderTest, queue: str, most: int) -> AbstractContextManager[None]:
    """That queue takes ``most`` messages and refuses the next."""
    return overruled(broker, queue, max_length=most, overflow="reject-publish")


@contextmanager
def deleted(broker: BrokerUnderTest, kind: str, name: str) -> Iterator[None]:
    """No such exchange or queue; ``kind`` is ``exchanges`` or ``queues``."""
    ask(broker, "DELETE", f"{kind}/{quote(broker.vhost, safe='')}/{name}")
    try:
        yield
    finally:
        put_back(broker)


@contextmanager
def forbidden(broker: BrokerUnderTest, right: str) -> Iterator[None]:
    """The functions' user has no such right (``read`` or ``write``), and no connection that remembers having had it.

    A channel keeps what it was allowed, and a consumer is asked once, when it subscribes.
    """
    user = quote(urlsplit(broker.amqp_url).username or "", safe="")
    path = f"permissions/{quote(broker.vhost, safe='')}/{user}"
    ask(broker, "PUT", path, {**EVERYTHING, right: "^$"})
    try:
        close_connections(broker)
        yield
    finally:
        ask(broker, "PUT", path, EVERYTHING)


@contextmanager
def alarm(rabbitmqctl: Rabbitmqctl, kind: str) -> Iterator[None]:
    """A ``memory`` or ``disk`` alarm."""
    raised, cleared = {
        "memory": (("set_vm_memory_high_watermark", "absolute", "1MB"), ("set_vm_memory_high_watermark", "0.4")),
        "disk": (("set_disk_free_limit", "999999999999999"), ("set_disk_free_limit", "50MB")),
    }[kind]
    rabbitmqctl(*raised)
    try:
        yield
    finally:
        rabbitmqctl(*cleared)


@contextmanager
def consumer_timeout(
    broker: BrokerUnderTest, rabbitmqctl: Rabbitmqctl, queue: str, milliseconds: int
) -> Iterator[None]:
    """The broker takes a message back that is not acknowledged in that time. For channels opened from now on."""
    if broker.version >= (4, 3):
        with overruled(broker, queue, consumer_timeout=milliseconds):
            yield
        return

    def put(name: str, value: int) -> None:
        rabbitmqctl("eval", f"application:set_env(rabbit, {name}, {value}).")

    put("consumer_timeout", milliseconds)
    put("channel_tick_interval", 1000)  # how often a channel looks; a minute by default
    try:
        yield
    finally:
        put("consumer_timeout", FOREVER_MS)
        put("channel_tick_interval", 60_000)


def close_connections(broker: BrokerUnderTest) -> int:
    """Close every connection of the virtual host, as an administrator would; how many there were."""
    closed = 0
    found = ask(broker, "GET", f"vhosts/{quote(broker.vhost, safe='')}/connections").json()
    with management(broker) as client:
        for connection in found:
            gone = client.delete(f"/api/connections/{quote(connection['name'], safe='')}")
            closed += gone.status_code == 204
    return closed

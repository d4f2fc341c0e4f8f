"""Queues for tests: declared, filled and read over a blocking connection; the broker's connections, closed by force."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx
import pika

from support import BrokerUnderTest, poll


class Amqp:
    """A blocking channel on the test's own virtual host."""

    def __init__(self, broker: BrokerUnderTest) -> None:
        self._broker = broker
        self._connection = pika.BlockingConnection(pika.URLParameters(broker.amqp_url))
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection.is_open:
            self._connection.close()

    def exchange(self, name: str, kind: str = "topic") -> None:
        self._channel.exchange_declare(name, kind, durable=True)

    def queue(self, name: str, *bindings: tuple[str, str], **arguments: Any) -> None:
        """A quorum queue; ``bindings`` are (exchange, routing key), ``arguments`` with _ for -."""
        table = {"x-queue-type": "quorum"} | {key.replace("_", "-"): value for key, value in arguments.items()}
        self._channel.queue_declare(name, durable=True, arguments=table)
        for exchange, routing_key in bindings:
            self.bind(name, exchange, routing_key)

    def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        self._channel.queue_bind(queue, exchange, routing_key)

    def unbind(self, queue: str, exchange: str, routing_key: str) -> None:
        self._channel.queue_unbind(queue, exchange, routing_key)

    def delete_queue(self, name: str) -> None:
        self._channel.queue_delete(name)

    def publish(self, exchange: str, routing_key: str, body: bytes, **properties: Any) -> None:
        """Persistent, and confirmed as routed."""
        kept = pika.BasicProperties(delivery_mode=2, **properties)
        self._channel.basic_publish(exchange, routing_key, body, kept, mandatory=True)

    def depth(self, queue: str) -> int:
        count: int = self._channel.queue_declare(queue, passive=True).method.message_count
        return count

    def hold(self, queue: str) -> bool:
        """Take a message and acknowledge it never; False when there is none."""
        method, _, _ = self._channel.basic_get(queue)
        return method is not None

    def purge(self, queue: str) -> None:
        self._channel.queue_purge(queue)

    def take(self, queue: str, count: int, *, seconds: float = 10) -> list[tuple[Any, bytes]]:
        """Exactly that many messages, as (properties, body), taken off the queue."""
        taken: list[tuple[Any, bytes]] = []
        if not count:
            return taken
        deadline = time.monotonic() + seconds
        # Fetched one by one, each is an entry in a quorum queue's log. None is acknowledged before all are here, so
        # the broker never hands out more than are asked for.
        self._channel.basic_qos(prefetch_count=count)
        for method, properties, body in self._channel.consume(queue, inactivity_timeout=0.1):
            if method is not None:
                taken.append((properties, body))
                if len(taken) == count:
                    self._channel.basic_ack(method.delivery_tag, multiple=True)
                    break
            if time.monotonic() >= deadline:
                raise AssertionError(f"{len(taken)} of {count} messages in {queue} came within {seconds:g} s")
        self._channel.cancel()
        return taken


@contextmanager
def management(broker: BrokerUnderTest) -> Iterator[httpx.Client]:
    """The management API."""
    with httpx.Client(base_url=broker.management_url, timeout=30, trust_env=False) as api:
        yield api


def connection_names(broker: BrokerUnderTest, client_name: str) -> list[str]:
    """The broker's names of connections that call themselves so, on this test's virtual host."""
    with management(broker) as api:
        answer = api.get(f"/api/vhosts/{quote(broker.vhost, safe='')}/connections").raise_for_status()
        return [
            each["name"]
            for each in answer.json()
            if each.get("client_properties", {}).get("connection_name") == client_name
        ]


def kill_connections(broker: BrokerUnderTest, client_name: str) -> None:
    """Close by force, as an operator would; waits until the management API has learned of them."""
    names = poll(lambda: connection_names(broker, client_name), seconds=20, what=f"a connection of {client_name}")
    with management(broker) as api:
        for name in names:
            api.delete(f"/api/connections/{quote(name, safe='')}").raise_for_status()


def through_port(url: str, port: int) -> str:
    """The same URL by way of a proxy on loopback."""
    parts = urlsplit(url)
    credentials = parts.netloc.rpartition("@")[0]
    return parts._replace(netloc=f"{credentials}@127.0.0.1:{port}").geturl()

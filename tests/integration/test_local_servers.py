"""The servers every other suite stands on."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pika
import psycopg

from support import BrokerUnderTest


def test_a_database_has_the_schema_it_was_asked_for(make_database: Callable[..., str]) -> None:
    with psycopg.connect(make_database(("outbox",))) as conn:
        assert conn.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
        assert conn.execute("SELECT to_regclass('inbox')").fetchone() == (None,)


def test_databases_of_one_test_are_apart(make_database: Callable[..., str]) -> None:
    one, other = make_database(("inbox",)), make_database(("inbox",))
    assert one != other


def test_a_message_goes_through_the_broker(broker: BrokerUnderTest) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(broker.amqp_url))
    try:
        channel = connection.channel()
        channel.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})
        channel.confirm_delivery()
        channel.basic_publish("", "q", b"hello", mandatory=True)
        assert channel.basic_get("q", auto_ack=True)[2] == b"hello"
    finally:
        connection.close()


def test_the_management_api_shows_the_tests_virtual_host(broker: BrokerUnderTest) -> None:
    answer = httpx.get(f"{broker.management_url}/api/vhosts/{broker.vhost}", trust_env=False)
    assert answer.json()["name"] == broker.vhost
    assert broker.version >= (3, 8)

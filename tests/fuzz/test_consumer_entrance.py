"""The waybill function as a real process behind a real broker that is sent anything at all, among good messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import pika
import psycopg
from hypothesis import given
from hypothesis import strategies as st
from pika.exceptions import AMQPError

from conftest import MakeDatabase
from function_process import running
from fuzz.budget import examples
from fuzz.wire import GARBAGE, Garbage, event
from outhaul.broker_admin.topology_apply import apply
from outhaul.settings import BrokerSettings
from outhaul.tools.dlq import DeadLetterQueue
from outhaul_waybill.topology import EXCHANGE, QUEUE, ROUTING_KEY, TOPOLOGY
from support import BrokerUnderTest, poll
from support_amqp import Amqp

LETTERS = f"{QUEUE}.dlq"


def publish(broker: BrokerUnderTest, garbage: Sequence[Garbage], neighbours: Sequence[str]) -> int:
    """Garbage, each followed by a good message. How many messages the broker took; it may refuse garbage itself."""
    taken = 0
    good = iter(neighbours)
    with Amqp(broker) as amqp:
        for each in garbage:
            taken += publish_one(broker, each)
            amqp.publish(EXCHANGE, ROUTING_KEY, json.dumps(event(next(good))).encode())
            taken += 1
    return taken


def publish_one(broker: BrokerUnderTest, garbage: Garbage) -> int:
    connection = pika.BlockingConnection(pika.URLParameters(broker.amqp_url))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish(EXCHANGE, ROUTING_KEY, garbage.body, garbage.as_properties(), mandatory=True)
    except AMQPError:
        return 0
    finally:
        if connection.is_open:
            connection.close()
    return 1


def test_whatever_comes_ends_as_a_waybill_or_a_letter_with_its_reason_and_harms_no_neighbour(
    make_database: MakeDatabase, broker: BrokerUnderTest, tmp_path: Path
) -> None:
    apply(TOPOLOGY, broker.amqp_url, broker.management_url)
    dsn = make_database(("waybill",))
    settings = {"OUTHAUL_WAYBILL_DATABASE_URL": dsn, "OUTHAUL_AMQP_URL": broker.amqp_url}
    published = 0
    with (
        running("outhaul_waybill", tmp_path, settings) as function,
        Amqp(broker) as amqp,
        psycopg.connect(dsn, autocommit=True) as conn,
    ):
        function.wait_ready(seconds=60)

        def made(orders: Sequence[str]) -> int:
            query = "SELECT count(*) FROM waybills WHERE order_id = ANY(%s::uuid[])"
            row = conn.execute(query, (list(orders),)).fetchone()
            return row[0] if row else 0

        def ended() -> int:
            row = conn.execute("SELECT count(*) FROM waybills").fetchone()
            return (row[0] if row else 0) + amqp.depth(LETTERS)

        @examples()
        @given(garbage=st.lists(GARBAGE, min_size=1, max_size=6))
        def all_end(garbage: list[Garbage]) -> None:
            nonlocal published
            neighbours = [str(uuid4()) for _ in garbage]
            published += publish(broker, garbage, neighbours)
            poll(lambda: made(neighbours) == len(neighbours), seconds=30, what="the neighbours' waybills")
            poll(lambda: ended() == published, seconds=30, what=f"{published} messages that ended")
            assert function.process.poll() is None, function.log.read_text()[-2000:]

        all_end()
        metrics = function.http.get("/metrics").text
        assert 'outhaul_connections_lost_total{role="consumer"} 0.0' in metrics
        there = amqp.depth(LETTERS)
        with DeadLetterQueue(BrokerSettings.parse(broker.amqp_url), LETTERS) as queue:
            letters = [letter.summary() for letter in queue.letters()]
        assert len(letters) == there > 0
        poll(lambda: amqp.depth(LETTERS) == there, what="all letters, still there after they were read")
        assert not [letter for letter in letters if not letter["reason"]]
        assert function.stop() == 0

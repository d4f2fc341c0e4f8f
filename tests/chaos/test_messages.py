"""Messages that are poison to their handler, malformed, or there twice. Each run ends with the ledger's verdict."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import httpx
import pytest

from chaos.ledger import Told
from chaos.load import Load
from chaos.system import System, count
from fuzz.wire import event
from outhaul_waybill.topology import EXCHANGE, QUEUE, ROUTING_KEY
from support import poll
from support_amqp import Amqp

pytestmark = pytest.mark.chaos

POISONED = "chaos.poisoned_waybill"
SETTINGS = {
    "OUTHAUL_CONSUMER_MAX_ATTEMPTS": "2",
    "OUTHAUL_CONSUMER_MAX_CRASHES": "2",
    # More than an innocent batch takes on a machine that is busy: that must not be taken for poison.
    "OUTHAUL_CONSUMER_HANDLER_TIMEOUT": "5s",
}
# An unsure sender sends again, and poison that is there twice is two letters; a busy machine takes more than 0.5 s.
SURE = {"OUTHAUL_SENDER_CONFIRM_TIMEOUT": "3s", "OUTHAUL_SENDER_LEASE": "12s"}
LINE = {"sku": "kettle", "quantity": 1, "unit_price_cents": 1}


def changed(**members: Any) -> bytes:
    """A good message but for these members."""
    return json.dumps({**event(), **members}).encode()


def without(name: str) -> bytes:
    """A good message but for one that is missing."""
    return json.dumps({key: value for key, value in event().items() if key != name}).encode()


MALFORMED = {
    "not-json": b"{",
    "empty": b"",
    "a-number": b"5",
    "no-type": b'{"specversion": "1.0", "id": "x", "source": "s"}',
    "bytes": b"\x00\xff\xfe",
    "nested-for-ever": b"[" * 20_000,
    "a-batch": b"[{}, {}]",
    "binary-content": b'{"specversion": "1.0", "id": "x", "source": "s", "type": "t", "data_base64": "!"}',
    **{f"without-{name}": without(name) for name in ("specversion", "id", "source", "type", "data")},
    "another-version-of-the-envelope": changed(specversion="0.3"),
    "an-unknown-type": changed(type="dev.outhaul.order.eaten.v1"),
    "an-unknown-version": changed(type="dev.outhaul.order.created.v9"),
    "an-id-of-another-kind": changed(id="3b1c4b1e-8a44-4d8e-9c57-0b7c3f6d2a10"),
    "no-order-in-it": changed(data={}),
    "an-order-of-nothing": changed(data={"order_id": str(uuid.uuid4()), "customer": "x", "lines": []}),
    "a-customer-with-nul": changed(data={"order_id": str(uuid.uuid4()), "customer": "\0", "lines": [LINE]}),
    "much-too-large": changed(data={"order_id": str(uuid.uuid4()), "customer": "x" * 1_000_000, "lines": [LINE]}),
}


def consumed(system: System, result: str) -> float:
    """Deliveries that all consumers, by their own metrics, dealt with so."""
    pages = [httpx.get(f"{each.url}/metrics", timeout=10, trust_env=False).text for each in system.waybills]
    counter = re.compile(rf'^outhaul_inbox_consumed_total{{result="{result}"}} (\S+)$', re.MULTILINE)
    return sum(float(found) for page in pages for found in counter.findall(page))


def place_poison(system: System, kind: str, told: Told) -> None:
    """One order that is poison, told of in the ledger as any other."""
    with Load([function.url for function in system.orders], rate=0.5, prefix=kind, clients=1) as load:
        load.more(1)
        poison = load.finish()
    told.attempted |= poison.attempted
    told.acknowledged.update(poison.acknowledged)
    told.unknown.update(poison.unknown)


@pytest.mark.parametrize("kind", ["raise", pytest.param("kill", marks=pytest.mark.chaos_quick), "hang"])
def test_poison_is_dead_lettered_alone_and_takes_no_innocent_with_it(kind: str, system: System) -> None:
    system.start(order_settings=SURE, waybill_settings=SETTINGS, waybill_module=POISONED)
    first, second = system.waybills
    with first.supervised() as codes, second.supervised() as more_codes, system.load(rate=30) as load:
        load.more(20)
        place_poison(system, kind, load.told)
        poison = sum(key.startswith(kind) for key in load.told.acknowledged)
        assert poison
        load.more(20)
        told = load.finish()
        system.settle(told, letters=poison, seconds=120)
    assert bool(codes + more_codes) == (kind != "raise")


def test_malformed_messages_become_dead_letters_and_hold_nobody_up(system: System) -> None:
    system.start()
    with Amqp(system.broker) as amqp, system.load() as load:
        for name, body in MALFORMED.items():
            load.more(3)
            load.told.injected.add(name)
            amqp.publish(EXCHANGE, ROUTING_KEY, body, message_id=name)
        system.settle(load.finish(), letters=len(MALFORMED))
    assert count(system.waybill_dsn, "SELECT count(*) FROM deliveries") == 0


def test_every_message_delivered_twice_takes_effect_once(system: System) -> None:
    """A second queue on the same route feeds a second copy of each message to the first."""
    system.start()
    copies = f"copies-{uuid.uuid4()}"
    with Amqp(system.broker) as amqp, system.load() as load:
        amqp.queue(
            copies,
            (EXCHANGE, ROUTING_KEY),
            x_message_ttl=300,
            x_dead_letter_exchange="outhaul.retry",
            x_dead_letter_routing_key=QUEUE,
            x_dead_letter_strategy="at-least-once",
            x_overflow="reject-publish",
        )
        load.more(200)
        system.settle(load.finish())
        poll(lambda: consumed(system, "duplicate") >= 100, what="copies that were taken for what they are")

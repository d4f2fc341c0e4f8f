"""Messages as nobody should send them, for hypothesis: any body, any AMQP properties, headers of every wire type."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pika
from hypothesis import strategies as st

from consuming import message_id
from outhaul import events
from outhaul.deadletter import OUTHAUL_HEADERS
from outhaul_waybill.models import ORDER_CREATED

KNOWN_HEADERS = (
    *OUTHAUL_HEADERS,
    "x-death",
    "x-delivery-count",
    "x-first-death-queue",
    "x-outhaul-force",
    "traceparent",
)
LINE = {"sku": "kettle", "quantity": 2, "unit_price_cents": 1999}

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@dataclass(frozen=True, slots=True)
class Garbage:
    """One message. ``headers`` is a table as it goes on the wire, or None for none at all."""

    body: bytes
    headers: bytes | None
    properties: dict[str, Any]

    def as_properties(self) -> pika.BasicProperties:
        """For pika's publish."""
        return pika.BasicProperties(**self.properties) if self.headers is None else RawTable(self)


class RawTable(pika.BasicProperties):  # type: ignore[misc]  # pika is untyped
    """Properties whose header table is written as given: pika itself refuses to write most of what can be read."""

    def __init__(self, garbage: Garbage) -> None:
        super().__init__(**garbage.properties, headers={})
        self._table = garbage.headers or b""

    def encode(self) -> list[bytes]:
        pieces = [bytes(piece) for piece in super().encode()]
        # An empty table is four zero bytes, the first such piece after the texts before it (AMQP 0-9-1, 4.2.6.1).
        at = pieces.index(b"\0\0\0\0")
        pieces[at] = struct.pack(">I", len(self._table)) + self._table
        return pieces


def event(order_id: str | None = None) -> dict[str, Any]:
    """A good message's body, decoded."""
    order_id = order_id or str(uuid4())
    payload = {"order_id": order_id, "customer": "Ada", "lines": [LINE], "total_cents": 3998}
    encoded = events.encode(
        message_id=message_id(salt=uuid4().int),
        seq=1,
        event_type=ORDER_CREATED,
        source="outhaul/order",
        aggregate_id=order_id,
        created_at=datetime.now(UTC),
        payload=json.dumps(payload).encode(),
    )
    decoded: dict[str, Any] = json.loads(encoded)
    return decoded


@st.composite
def changed_events(draw: st.DrawFn) -> bytes:
    """Almost a good message: some of its members are gone, or something else."""
    found = event()
    for _ in range(draw(st.integers(1, 3))):
        inside = draw(st.sampled_from([found, found.get("data")]))
        table = inside if isinstance(inside, dict) and inside else found
        if not table:
            break
        name = draw(st.sampled_from(sorted(table)))
        if draw(st.booleans()):
            del table[name]
        else:
            table[name] = draw(JSON_VALUES)
    return json.dumps(found).encode()


BODIES = st.one_of(
    st.binary(max_size=300),
    JSON_VALUES.map(lambda value: json.dumps(value).encode()),
    changed_events(),
    st.integers(1, 20_000).map(lambda depth: b"[" * depth),
    st.integers(1, 20_000).map(lambda depth: b'{"a":' * depth),
    st.binary(max_size=20).map(lambda tail: json.dumps(event()).encode() + tail),
)


def _text(value: bytes) -> bytes:
    return b"S" + struct.pack(">I", len(value)) + value


def _table(entries: list[tuple[str, bytes]]) -> bytes:
    """Names are cut to what one length byte can say."""
    named = [(name.encode()[:255], value) for name, value in entries]
    return b"".join(bytes((len(name),)) + name + value for name, value in named)


# RabbitMQ's types of field: https://www.rabbitmq.com/docs/amqp-0-9-1-errata, section 3.
WIRE_VALUES = st.recursive(
    st.one_of(
        st.sampled_from([b"V", b"t\x00", b"t\x01"]),
        st.integers(0, 2**64 - 1).map(lambda number: b"T" + struct.pack(">Q", number)),
        st.integers(-(2**63), 2**63 - 1).map(lambda number: b"l" + struct.pack(">q", number)),
        st.integers(0, 2**32 - 1).map(lambda number: b"i" + struct.pack(">I", number)),
        st.integers(0, 2**16 - 1).map(lambda number: b"u" + struct.pack(">H", number)),
        st.binary(min_size=5, max_size=5).map(lambda decimal: b"D" + decimal),
        st.floats(allow_nan=False, allow_infinity=False).map(lambda number: b"d" + struct.pack(">d", number)),
        st.binary(max_size=60).map(_text),
        st.binary(max_size=60).map(lambda raw: b"x" + struct.pack(">I", len(raw)) + raw),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: b"A" + struct.pack(">I", len(b"".join(items))) + b"".join(items)),
        st.lists(st.tuples(st.text(max_size=5), inner), max_size=3)
        .map(_table)
        .map(lambda table: b"F" + struct.pack(">I", len(table)) + table),
    ),
    max_leaves=6,
)
# CC and BCC tell the broker to route copies, which is the publisher's will and no garbage.
NAMES = st.one_of(st.sampled_from(KNOWN_HEADERS), st.text(max_size=20)).filter(lambda name: name not in {"CC", "BCC"})
SHORT = st.one_of(st.text(max_size=30), st.binary(max_size=30))
PROPERTIES = st.fixed_dictionaries(
    {"delivery_mode": st.sampled_from([1, 2])},
    optional={
        **dict.fromkeys(("content_type", "content_encoding", "correlation_id", "reply_to"), SHORT),
        **dict.fromkeys(("message_id", "type", "app_id"), SHORT),
        "priority": st.integers(0, 255),
        "timestamp": st.integers(0, 2**64 - 1),
    },
)
GARBAGE = st.builds(
    Garbage,
    body=BODIES,
    headers=st.none()
    | st.lists(st.tuples(NAMES, WIRE_VALUES), max_size=4, unique_by=lambda entry: entry[0]).map(_table),
    properties=PROPERTIES,
)

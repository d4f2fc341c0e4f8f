"""What the broker or the database would refuse late is refused when the message is made, naming the setting."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outhaul import Message, Outbox
from outhaul.errors import ConfigurationError
from outhaul.message import HEADERS_BYTES

NAMES = ["type", "routing_key", "aggregate_id", "content_type", "exchange", "causation_id", "traceparent"]
UUID_1 = UUID("0190b3f2-5a5c-7000-8000-000000000001")


def message(**changes: Any) -> Message:
    fields: dict[str, Any] = {"type": "t.v1", "routing_key": "r", "aggregate_id": "a", "data": {}}
    return Message(**(fields | changes))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("a\x00b", "control character"),
        ("line\nbreak", "control character"),
        ("\x9f", "control character"),
        ("\ud800", "surrogate"),
        ("x" * 256, "256 bytes"),
        ("\u2603" * 86, "258 bytes"),
        (7, "must be text"),
    ],
)
def test_a_text_that_cannot_be_carried_is_refused_by_its_name(name: str, value: object, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        message(**{name: value})
    assert caught.value.setting == f"Message.{name}"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "routing_key"])
def test_an_empty_text_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="must not be empty") as caught:
        message(**{name: ""})
    assert caught.value.setting == f"Message.{name}"


def test_an_empty_routing_key_is_one() -> None:
    assert message(routing_key="").routing_key == ""


@pytest.mark.parametrize("name", NAMES)
def test_the_longest_text_amqp_carries_is_taken(name: str) -> None:
    assert getattr(message(**{name: "\u2603" * 85}), name) == "\u2603" * 85


def test_a_long_text_is_not_shown_whole() -> None:
    with pytest.raises(ConfigurationError) as caught:
        message(aggregate_id="x" * 100_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"": 1}, "must not be empty"),
        ({"a\x00": 1}, "control character"),
        ({"a": "b\x00"}, "text without NUL"),
        ({"a": "\ud800"}, "text without NUL"),
        ({"a": 1.5}, "whole number"),
        ({"a": None}, "whole number"),
        ({"a": [1]}, "whole number"),
        ({"a": 2**63}, "whole number"),
        ({"a": -(2**63) - 1}, "whole number"),
        ({"x-outhaul-failed": 1}, "own"),
        ({"x-death": "y"}, "own"),
        ({"CC": "other.queue"}, "own"),
        ({"BCC": "other.queue"}, "own"),
        ({"a": "x" * HEADERS_BYTES}, "together"),
        ({"a": "x" * HEADERS_BYTES + "\x00"}, "text without NUL"),
        ({f"h{n}": "x" * 1000 for n in range(HEADERS_BYTES // 1000 + 1)}, "together"),
    ],
)
def test_a_header_that_amqp_cannot_carry_is_refused(headers: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        message(headers=headers)
    assert caught.value.setting.startswith("Message.headers")
    assert len(str(caught.value)) < 400


def test_headers_may_be_text_whole_numbers_and_booleans() -> None:
    headers = {"text": "line\nbreak \u2603", "least": -(2**63), "most": 2**63 - 1, "yes": True}
    assert message(headers=headers).headers == headers


class Colour(Enum):
    RED = "red"


class Size(IntEnum):
    BIG = 3


@dataclass
class Line:
    sku: str
    colour: Colour


class Order(pydantic.BaseModel):
    order_id: UUID
    total: Decimal


class Struct(msgspec.Struct, rename="camel"):
    order_id: UUID
    line: Line


class Pair(NamedTuple):
    left: int
    right: int


@pytest.mark.parametrize(
    ("data", "wire"),
    [
        ({"a": [1, 2.5, None, True, "\u2603"]}, '{"a":[1,2.5,null,true,"\u2603"]}'),
        (None, "null"),
        ([], "[]"),
        (Line("x", Colour.RED), '{"sku":"x","colour":"red"}'),
        (Order(order_id=UUID_1, total=Decimal("1.10")), f'{{"order_id":"{UUID_1}","total":"1.10"}}'),
        (Struct(UUID_1, Line("x", Colour.RED)), f'{{"orderId":"{UUID_1}","line":{{"sku":"x","colour":"red"}}}}'),
        ({"line": [Line("x", Colour.RED)]}, '{"line":[{"sku":"x","colour":"red"}]}'),
        ({"order": Order(order_id=UUID_1, total=Decimal(1))}, f'{{"order":{{"order_id":"{UUID_1}","total":"1"}}}}'),
        ({"struct": Struct(UUID_1, Line("x", Colour.RED))}, None),
        ({"d": Decimal("0.30"), "id": UUID_1}, f'{{"d":"0.30","id":"{UUID_1}"}}'),
        ({"at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)}, '{"at":"2026-01-02T03:04:05+00:00"}'),
        ({"on": date(2026, 1, 2)}, '{"on":"2026-01-02"}'),
        ({"set": {"b", "a"}}, '{"set":["a","b"]}'),
        (Pair(1, 2), "[1,2]"),
        ({"size": Size.BIG}, '{"size":3}'),
        (b'{"ready": "made"}', '{"ready": "made"}'),
    ],
)
def test_data_becomes_compact_json(data: Any, wire: str | None) -> None:
    payload = message(data=data).payload()
    if wire is None:
        wire = '{"struct":' + message(data=data["struct"]).payload().decode() + "}"
    assert payload.decode() == wire


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (float("nan"), "JSON"),
        ({"a": float("inf")}, "JSON"),
        (object(), "no JSON form"),
        ({"a": {1, "b"}}, "JSON"),
        ({UUID_1: 1}, "JSON"),
        ("\ud800", "JSON"),
        (bytearray(b"{}"), "no JSON form"),
    ],
)
def test_data_that_is_no_json_is_refused(data: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        message(data=data).payload()
    assert caught.value.setting == "Message.data"
    assert caught.value.__cause__ is not None


def test_data_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ConfigurationError, match="cannot be JSON"):
        message(data=endless).payload()


def test_data_nested_without_end_in_sight_is_refused() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ConfigurationError, match="cannot be JSON"):
        message(data=deep).payload()
    while deep:  # taken apart by hand: the interpreter's own way is recursive in some versions
        deep = deep.pop()


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"NaN", b'{"a":1}{', "{}".encode("utf-16"), b"\xef\xbb\xbf{}"])
def test_bytes_that_claim_to_be_json_must_be(data: bytes) -> None:
    """They are placed into the envelope as they are: broken ones would break it for every consumer."""
    with pytest.raises(ConfigurationError, match="content_type") as caught:
        message(data=data).payload()
    assert caught.value.setting == "Message.data"


def test_bytes_of_another_content_type_are_taken_as_they_are() -> None:
    assert message(data=b"\x00\xff", content_type="application/octet-stream").payload() == b"\x00\xff"


def test_other_data_is_sent_as_json_only() -> None:
    with pytest.raises(ConfigurationError, match="application/json") as caught:
        message(content_type="text/plain").payload()
    assert caught.value.setting == "Message.content_type"


def test_a_message_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        message().type = "other"  # type: ignore[misc] # that it is refused is the point


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_any_json_value_is_carried(data: Any) -> None:
    assert json.loads(message(data=data).payload()) == data


@pytest.mark.parametrize(("name", "value"), [("exchange", ""), ("exchange", "a\x00"), ("exchange", "x" * 256)])
def test_an_outbox_that_cannot_be_named_on_the_wire_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Outbox(**{name: value})
    assert caught.value.setting == f"Outbox.{name}"


@pytest.mark.parametrize("source", ["\x00", "\ud800", "x" * 256])
def test_a_source_that_cannot_be_written_is_refused(source: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Outbox(exchange="e", source=source)
    assert caught.value.setting == "Outbox.source"


def test_the_source_is_the_exchange_unless_said() -> None:
    assert Outbox(exchange="shop.events").source == "shop.events"
    assert Outbox(exchange="shop.events", source="/shop").source == "/shop"

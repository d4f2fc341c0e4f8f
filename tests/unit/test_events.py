"""The envelope: golden bytes, since the inbox hashes them; a round trip; and everything that is no event refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outhaul.errors import ConfigurationError, InvalidMessage
from outhaul.events import Event, decode, encode, payload_hash
from outhaul.message import Message

ID = UUID("0190b3f2-5a5c-7abc-8def-0123456789ab")
AT = datetime(2026, 11, 23, 14, 41, 31, 250, tzinfo=UTC)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

PLAIN = (
    b'{"specversion":"1.0","id":"0190b3f2-5a5c-7abc-8def-0123456789ab","source":"shop.events",'
    b'"type":"shop.order.created.v1","subject":"order-7","time":"2026-11-23T14:41:31.000250Z",'
    b'"sequence":"00000000000000000042","datacontenttype":"application/json","data":{"n": 1}}'
)
WITH_CAUSE = (
    b'{"specversion":"1.0","id":"0190b3f2-5a5c-7abc-8def-0123456789ab","source":"/shop",'
    b'"type":"shop.order.created.v1","subject":"\xe2\x98\x83 \\"7\\"\\\\","time":"2026-11-23T14:41:31.000250Z",'
    b'"sequence":"00000000000000000042","causationid":"cause-1",'
    b'"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",'
    b'"datacontenttype":"application/octet-stream","data_base64":"AP8="}'
)


def encoded(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "message_id": ID,
        "seq": 42,
        "event_type": "shop.order.created.v1",
        "source": "shop.events",
        "aggregate_id": "order-7",
        "created_at": AT,
        "payload": b'{"n": 1}',
    }
    return encode(**(fields | changes))


def envelope(**changes: Any) -> bytes:
    fields = json.loads(PLAIN) | changes
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def reason_of(body: bytes) -> str | None:
    """Why it is refused; None for an event."""
    try:
        decode(body)
    except InvalidMessage as refused:
        return refused.reason
    return None


def test_the_envelopes_bytes_are_what_they_always_were() -> None:
    """Every inbox remembers a hash of them: other bytes for an old row would look like another message."""
    assert encoded() == PLAIN
    assert payload_hash(encoded()).hex() == "0724a15a2a1d1e4d2c0a4dca699d3e6221886203f237c93a9cdd5c50220dddc5"


def test_the_envelopes_bytes_with_all_attributes_are_what_they_always_were() -> None:
    body = encoded(
        source="/shop",
        aggregate_id='\u2603 "7"\\',
        payload=b"\x00\xff",
        content_type="application/octet-stream",
        causation_id="cause-1",
        traceparent=TRACE,
    )
    assert body == WITH_CAUSE


def test_the_time_zone_a_connection_uses_does_not_change_the_bytes() -> None:
    assert encoded(created_at=AT.astimezone(timezone(timedelta(hours=-9, minutes=-30)))) == PLAIN


def test_another_payload_has_another_hash() -> None:
    assert payload_hash(encoded()) != payload_hash(encoded(payload=b'{"n": 2}'))
    assert len(payload_hash(b"")) == 32


def test_an_envelope_reads_as_the_event_it_tells_of() -> None:
    assert decode(PLAIN, {"h": 1}) == Event(
        id=ID,
        type="shop.order.created.v1",
        source="shop.events",
        time=AT,
        subject="order-7",
        sequence=42,
        causation_id=None,
        traceparent=None,
        data={"n": 1},
        headers={"h": 1},
    )
    event = decode(WITH_CAUSE)
    assert (event.subject, event.causation_id, event.traceparent) == ('\u2603 "7"\\', "cause-1", TRACE)
    assert event.data == b"\x00\xff"


names = st.text(min_size=1, max_size=60)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    message_id=st.integers(0, 2**128 - 1).map(lambda n: UUID(int=n & ~(15 << 76 | 3 << 62) | 7 << 76 | 2 << 62)),
    seq=st.integers(1, 2**63 - 1),
    event_type=names,
    subject=names,
    source=names,
    causation_id=st.none() | names,
    traceparent=st.none() | names,
    created_at=st.datetimes(timezones=st.just(UTC)),
    data=json_values | st.binary(),
)
def test_what_a_producer_may_say_arrives_as_it_was_said(
    *,
    message_id: UUID,
    seq: int,
    event_type: str,
    subject: str,
    source: str,
    causation_id: str | None,
    traceparent: str | None,
    created_at: datetime,
    data: Any,
) -> None:
    content_type = "application/octet-stream" if isinstance(data, bytes) else "application/json"
    try:
        message = Message(
            type=event_type,
            routing_key="r",
            aggregate_id=subject,
            data=data,
            content_type=content_type,
            causation_id=causation_id,
            traceparent=traceparent,
        )
        Message(type=source, routing_key="r", aggregate_id="a", data=None)
    except ConfigurationError:
        return  # a control character, say: refused where it is said, so it never travels
    body = encode(
        message_id=message_id,
        seq=seq,
        event_type=message.type,
        source=source,
        aggregate_id=message.aggregate_id,
        created_at=created_at,
        payload=message.payload(),
        content_type=message.content_type,
        causation_id=message.causation_id,
        traceparent=message.traceparent,
    )
    assert decode(body) == Event(
        message_id, event_type, source, created_at, subject, seq, causation_id, traceparent, data, {}
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"{",
        b"\xff\xfe\x00",
        PLAIN[:-1],
        PLAIN.replace(b'{"n": 1}', b"NaN"),
        PLAIN.replace(b'{"n": 1}', b'{"n": -Infinity}'),
        PLAIN.replace(b'{"n": 1}', b"9" * 10_000),
        b"[" * 200_000,
    ],
)
def test_what_is_no_json_is_malformed(body: bytes) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode(body)
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        envelope(specversion=...),
        envelope(specversion="0.3"),
        envelope(specversion=1.0),
        envelope(type=...),
        envelope(type=""),
        envelope(type=7),
        envelope(type="a\x00b"),
        envelope(type="\ud800"),
        envelope(source=...),
        envelope(source="a\nb"),
        envelope(subject=7),
        envelope(subject="\x7f"),
        envelope(causationid=[]),
        envelope(causationid="\x00"),
        envelope(traceparent="\ud800"),
        envelope(time=0),
        envelope(time="yesterday"),
        envelope(time="2026-11-23T14:41:31"),
        envelope(sequence=42),
        envelope(sequence="-1"),
        envelope(sequence="\u0663"),
        envelope(sequence="1" * 21),
        envelope(data_base64="?"),
        envelope(data_base64="AA"),
        envelope(data_base64="\u2603"),
        envelope(data_base64=7),
        envelope(data_base64=None),
    ],
)
def test_json_that_is_no_cloudevent_is_told_apart(body: bytes) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode(body)
    assert caught.value.reason == "not-a-cloudevent"
    caught.value.detail.encode()  # it travels in a header


@pytest.mark.parametrize(
    "value", [..., None, 7, "", "order-1", "5e9de8c2-8907-4444-985b-74e04c1dbc1b", "0" * 32, {"a": 1}, "\ud800" * 36]
)
def test_an_id_that_is_no_uuid7_is_told_apart(value: object) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode(envelope(id=value))
    assert caught.value.reason == "invalid-id"
    caught.value.detail.encode()


def test_a_refusal_does_not_repeat_an_endless_value() -> None:
    for name in ("id", "type", "source", "time", "sequence", "specversion"):
        value: Any = ["x" * 100_000] if name in {"type", "source", "specversion"} else "x" * 100_000
        with pytest.raises(InvalidMessage) as caught:
            decode(envelope(**{name: value}))
        assert len(caught.value.detail) < 300


def test_an_event_without_its_optional_attributes_is_one() -> None:
    event = decode(envelope(subject=..., time=..., sequence=..., data=..., datacontenttype=...))
    assert (event.subject, event.time, event.sequence, event.data) == (None, None, None, None)


def test_attributes_nobody_asked_for_are_no_trouble() -> None:
    assert decode(envelope(dataschema="https://example.com", anything={"a": 1})).id == ID


def test_an_id_in_capitals_is_the_same_id() -> None:
    assert decode(envelope(id=str(ID).upper())).id == ID


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_an_event_or_refused_with_a_reason(body: bytes) -> None:
    assert reason_of(body) in {None, "malformed", "not-a-cloudevent", "invalid-id"}


@given(
    st.sampled_from(
        ["specversion", "id", "type", "source", "subject", "time", "sequence", "data_base64", "traceparent"]
    ),
    json_values,
)
def test_any_value_in_any_attribute_is_read_or_refused_with_a_reason(name: str, value: Any) -> None:
    assert reason_of(envelope(**{name: value})) in {None, "not-a-cloudevent", "invalid-id"}

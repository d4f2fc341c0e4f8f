from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pika import BasicProperties, frame, spec

from outhaul.amqp.outgoing import Outgoing
from outhaul.amqp.publish_frames import PublishFrames

FRAME_MAX = 4096
CHANNEL = 7

short = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
values = st.one_of(
    short,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=40),
    st.none(),
    st.lists(short, max_size=3),
)


def by_pika(message: Outgoing) -> bytes:
    properties = BasicProperties(
        content_type=message.content_type or None,
        headers=dict(message.headers) or None,
        delivery_mode=2,
        message_id=message.message_id,
        type=message.type or None,
    )
    publish = spec.Basic.Publish(exchange=message.exchange, routing_key=message.routing_key, mandatory=True)
    frames = [
        frame.Method(CHANNEL, publish).marshal(),
        frame.Header(CHANNEL, len(message.body), properties).marshal(),
    ]
    piece = FRAME_MAX - 8
    frames += [
        frame.Body(CHANNEL, message.body[at : at + piece]).marshal() for at in range(0, len(message.body), piece)
    ]
    return b"".join(frames)


@given(
    exchange=short,
    routing_key=short,
    body=st.one_of(st.binary(max_size=100), st.integers(4000, 13_000).map(lambda n: b"x" * n)),
    message_id=short,
    kind=short,
    content_type=short,
    headers=st.dictionaries(short, values, max_size=4),
)
@settings(max_examples=300, deadline=None)
def test_the_bytes_are_those_of_the_reference_encoder(
    exchange: str,
    routing_key: str,
    body: bytes,
    message_id: str,
    kind: str,
    content_type: str,
    headers: dict[str, object],
) -> None:
    message = Outgoing(None, exchange, routing_key, body, message_id, kind, content_type, headers)
    frames = PublishFrames(CHANNEL, FRAME_MAX)
    assert frames.encode(message) == by_pika(message)
    assert frames.encode(message) == by_pika(message), "the second time, from what was learned"


@pytest.mark.parametrize("size", [0, 1, FRAME_MAX - 9, FRAME_MAX - 8, FRAME_MAX - 7, 2 * (FRAME_MAX - 8)])
def test_bodies_around_the_frame_size_are_cut_where_the_reference_cuts_them(size: int) -> None:
    message = Outgoing(None, "e", "k", b"x" * size, "id")
    assert PublishFrames(CHANNEL, FRAME_MAX).encode(message) == by_pika(message)


@pytest.mark.parametrize("name", ["exchange", "routing_key", "message_id", "type", "content_type"])
def test_a_text_too_long_for_amqp_is_refused(name: str) -> None:
    fields: dict[str, Any] = {"key": None, "exchange": "e", "routing_key": "k", "body": b"", "message_id": "id"}
    message = Outgoing(**(fields | {name: "ü" * 128}))
    with pytest.raises(ValueError, match="at most 255"):
        PublishFrames(CHANNEL, FRAME_MAX).encode(message)


def test_routing_keys_without_end_use_bounded_memory() -> None:
    frames = PublishFrames(CHANNEL, FRAME_MAX)
    for n in range(5000):
        message = Outgoing(None, "e", f"order.{n}", b"", "id")
        assert frames.encode(message) == by_pika(message)
    assert len(frames._routes) <= 1000

"""One publish as the bytes that go on the wire: method, header and body frames in one piece.

What does not change between the messages of a route is encoded once. pika builds six objects and some forty small
byte strings for every message instead, which costs five times as much as everything else a sender does with it.
Layout: AMQP 0-9-1, sections 2.3.5 (frames), 2.3.5.2 (content) and 4.2.5 (short strings).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pika import data as pika_data

from outhaul.amqp.outgoing import Outgoing

SHORT_STRING_BYTES = 255
_METHOD, _HEADER, _BODY = 1, 2, 3
_BASIC, _PUBLISH, _MANDATORY = 60, 40, 1
_FRAME_END = b"\xce"
_FRAME_OVERHEAD_BYTES = 8
_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE, _MESSAGE_ID, _TYPE = 1 << 15, 1 << 13, 1 << 12, 1 << 7, 1 << 5
_PERSISTENT = b"\x02"
_MOST_ROUTES = 1000
_frame_head = struct.Struct(">BHL").pack
_content_head = struct.Struct(">BHLHHQ").pack
_short = struct.Struct(">H").pack
_CONTENT_HEAD_BYTES = 12  # class, weight, body size: what the header frame counts before its properties


class _Route(NamedTuple):
    """What all messages with one exchange, routing key, content type and type have in common."""

    method: bytes
    before_headers: bytes
    after_message_id: bytes
    flags: int


class PublishFrames:
    """Encodes for one channel. ``frame_max`` is what the connection has agreed on, in bytes."""

    def __init__(self, channel_number: int, frame_max: int) -> None:
        self._channel = channel_number
        self._most_body = (frame_max or 131_072) - _FRAME_OVERHEAD_BYTES
        self._routes: dict[tuple[str, str, str, str], _Route] = {}

    def encode(self, outgoing: Outgoing) -> bytes:
        """A persistent, mandatory publish. Raises ValueError, TypeError or pika's errors for what AMQP cannot carry."""
        _, exchange, routing_key, body, message_id, kind, content_type, headers = outgoing
        route = self._routes.get((exchange, routing_key, content_type, kind))
        if route is None:
            route = self._learn(exchange, routing_key, content_type, kind)
        name = message_id.encode()
        if len(name) > SHORT_STRING_BYTES:
            raise ValueError(f"message_id is {len(name)} bytes; AMQP carries at most {SHORT_STRING_BYTES}")
        flags, table = route.flags, b""
        if headers:
            flags |= _HEADERS
            pieces: list[bytes] = []
            pika_data.encode_table(pieces, headers)
            table = b"".join(pieces)
        properties = b"".join(
            (
                _short(flags),
                route.before_headers,
                table,
                _PERSISTENT,
                bytes((len(name),)),
                name,
                route.after_message_id,
            )
        )
        channel, size = self._channel, len(body)
        head = _content_head(_HEADER, channel, _CONTENT_HEAD_BYTES + len(properties), _BASIC, 0, size)
        if size <= self._most_body:
            if not size:
                return b"".join((route.method, head, properties, _FRAME_END))
            return b"".join(
                (route.method, head, properties, _FRAME_END, _frame_head(_BODY, channel, size), body, _FRAME_END)
            )
        frames = [route.method, head, properties, _FRAME_END]
        for start in range(0, size, self._most_body):
            piece = body[start : start + self._most_body]
            frames += (_frame_head(_BODY, channel, len(piece)), piece, _FRAME_END)
        return b"".join(frames)

    def _learn(self, exchange: str, routing_key: str, content_type: str, kind: str) -> _Route:
        payload = b"".join(
            (
                struct.pack(">HHH", _BASIC, _PUBLISH, 0),
                _short_string("exchange", exchange),
                _short_string("routing_key", routing_key),
                bytes((_MANDATORY,)),
            )
        )
        route = _Route(
            method=_frame_head(_METHOD, self._channel, len(payload)) + payload + _FRAME_END,
            before_headers=_short_string("content_type", content_type) if content_type else b"",
            after_message_id=_short_string("type", kind) if kind else b"",
            flags=_DELIVERY_MODE | _MESSAGE_ID | (_CONTENT_TYPE if content_type else 0) | (_TYPE if kind else 0),
        )
        if len(self._routes) >= _MOST_ROUTES:
            self._routes.clear()  # keys without end, such as an id in the routing key: learning them is cheap
        self._routes[exchange, routing_key, content_type, kind] = route
        return route


def _short_string(name: str, value: str) -> bytes:
    encoded = value.encode()
    if len(encoded) > SHORT_STRING_BYTES:
        raise ValueError(f"{name} is {len(encoded)} bytes; AMQP carries at most {SHORT_STRING_BYTES}")
    return bytes((len(encoded),)) + encoded

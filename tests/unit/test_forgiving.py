from __future__ import annotations

import struct

import pytest
from pika import frame, spec

from outhaul.amqp.forgiving import ForgivingConnection, without_headers

TIMESTAMP_MS = b"T" + struct.pack(">Q", 1_790_000_000_000)
NOT_A_NUMBER = b"d" + struct.pack(">d", float("nan"))
UNKNOWN_TYPE = b"?1234"


def header_frame(value: bytes) -> bytes:
    """A content header with every property about the headers, and one header of that value."""
    table = b"\x03odd" + value
    flags = spec.BasicProperties.FLAG_CONTENT_TYPE | spec.BasicProperties.FLAG_CONTENT_ENCODING
    flags |= spec.BasicProperties.FLAG_HEADERS | spec.BasicProperties.FLAG_PRIORITY | spec.BasicProperties.FLAG_TYPE
    properties = b"".join(
        (struct.pack(">H", flags), b"\x04json", b"\x04gzip", struct.pack(">I", len(table)), table, b"\x07", b"\x01t")
    )
    payload = struct.pack(">HHQ", 60, 0, 1234) + properties
    return struct.pack(">BHL", spec.FRAME_HEADER, 5, len(payload)) + payload + b"\xce"


def connection(data: bytes) -> ForgivingConnection:
    made = ForgivingConnection()
    made._frame_buffer = data
    return made


@pytest.mark.parametrize("value", [TIMESTAMP_MS, NOT_A_NUMBER, UNKNOWN_TYPE])
def test_headers_that_cannot_be_read_are_left_out_and_the_rest_is_kept(value: bytes) -> None:
    data = header_frame(value)
    consumed, read = connection(data + b"the next frame")._read_frame()
    assert consumed == len(data)
    assert (read.channel_number, read.body_size) == (5, 1234)
    properties = read.properties
    assert (properties.content_type, properties.content_encoding) == ("json", "gzip")
    assert (properties.priority, properties.type, properties.headers) == (7, "t", None)


def test_headers_that_can_be_read_are_kept() -> None:
    _, read = connection(header_frame(b"l" + struct.pack(">q", 7)))._read_frame()
    assert read.properties.headers == {"odd": 7}


def test_half_a_frame_is_waited_for() -> None:
    data = header_frame(TIMESTAMP_MS)
    assert connection(data[:-1])._read_frame() == (0, None)


def test_any_other_frame_that_cannot_be_read_still_ends_the_connection() -> None:
    """A table in a method frame is the broker's own: there is nothing to forgive."""
    assert without_headers(frame.Heartbeat().marshal()) is None

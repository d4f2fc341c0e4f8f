"""Reading messages whose headers pika cannot: a foreign program's header must not end the connection.

pika turns header values into Python's while it reads the frame, and raises for those that Python has no value for: a
timestamp in milliseconds (its year has five digits), a double that is no number, a type it does not know. What is
raised there ends the connection; the broker delivers the message again to the next one, and so on without end.
"""

from __future__ import annotations

import logging
import struct
from typing import Any

from pika import exceptions, frame, spec
from pika.adapters.select_connection import SelectConnection

_log = logging.getLogger(__name__)

UNREADABLE = (ValueError, ArithmeticError, OSError, RecursionError, struct.error, exceptions.InvalidFieldTypeException)
_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS = 1 << 15, 1 << 14, 1 << 13
_PROPERTIES_AT = 12  # after class, weight and body size (AMQP 0-9-1, section 2.3.5.2)


class ForgivingConnection:
    """Over one of pika's connections: a message whose headers cannot be read has none, its other properties stay."""

    _frame_buffer: bytes

    def _read_frame(self) -> tuple[int, Any]:
        try:
            read: tuple[int, Any] = frame.decode_frame(self._frame_buffer)
        except UNREADABLE as error:
            forgiven = without_headers(self._frame_buffer)
            if forgiven is None:
                raise
            _log.warning("a message came with headers that cannot be read, and is taken without them: %s", error)
            return forgiven
        return read


class ForgivingSelectConnection(ForgivingConnection, SelectConnection):  # type: ignore[misc]  # pika is untyped
    """What a BlockingConnection stands on."""


def without_headers(data: bytes) -> tuple[int, Any] | None:
    """The content header frame that ``data`` begins with, without its headers table; None where it is no such frame."""
    kind, channel, size = struct.unpack_from(">BHL", data)
    payload = data[spec.FRAME_HEADER_SIZE : spec.FRAME_HEADER_SIZE + size]
    if kind != spec.FRAME_HEADER:
        return None
    _, _, body_size = struct.unpack_from(">HHQ", payload)
    [flags] = struct.unpack_from(">H", payload, _PROPERTIES_AT)
    at = _PROPERTIES_AT + 2
    for flag in (_CONTENT_TYPE, _CONTENT_ENCODING):
        if flags & flag:
            at += 1 + payload[at]
    if not flags & _HEADERS:
        return None
    [table_size] = struct.unpack_from(">I", payload, at)
    rest = payload[_PROPERTIES_AT + 2 : at] + payload[at + 4 + table_size :]
    properties = spec.BasicProperties()
    properties.decode(struct.pack(">H", flags & ~_HEADERS) + rest)
    return spec.FRAME_HEADER_SIZE + size + spec.FRAME_END_SIZE, frame.Header(channel, body_size, properties)

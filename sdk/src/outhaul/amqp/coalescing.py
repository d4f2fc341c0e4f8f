"""An AMQP connection that writes once a turn of the loop, not three times a message.

pika hands each frame to the socket by itself: method, header and body of every message are a system call each, which
was the largest single cost of publishing. Here the frames of one turn are joined, in order, and written together.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

from pika.adapters.asyncio_connection import AsyncioConnection

from outhaul.amqp.forgiving import ForgivingConnection

# A write that the socket takes only in part is copied by what is left of it: keep the pieces small enough for that.
MOST_BYTES_A_WRITE = 256 * 1024


class CoalescingConnection(ForgivingConnection, AsyncioConnection):  # type: ignore[misc]  # pika is untyped
    """As its base, with the adapter's way out (``_adapter_emit_data``) buffered until the turn's end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Before the base: it may emit the protocol header while it is being made.
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        super().__init__(*args, **kwargs)

    def emit(self, frames: bytes) -> None:
        """Send whole frames that were encoded elsewhere, in their turn among pika's own."""
        self.bytes_sent += len(frames)
        if len(frames) <= MOST_BYTES_A_WRITE:
            self._adapter_emit_data(frames)
            return
        for start in range(0, len(frames), MOST_BYTES_A_WRITE):
            self._adapter_emit_data(frames[start : start + MOST_BYTES_A_WRITE])

    def _adapter_emit_data(self, data: bytes) -> None:
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._write_gathered)
        self._gathered.append(data)
        self._gathered_bytes += len(data)
        if self._gathered_bytes >= MOST_BYTES_A_WRITE:
            self._write_gathered()

    def _write_gathered(self) -> None:
        if not self._gathered:
            return  # a full piece went out before the turn's end
        data, self._gathered, self._gathered_bytes = b"".join(self._gathered), [], 0
        if self._transport is None:
            return  # the connection ended meanwhile: nothing of it was sent, as always
        data = data[_sent_at_once(self._transport, data) :]
        if data:
            self._transport.write(data)


def _sent_at_once(transport: Any, data: bytes) -> int:
    """How much of it the socket takes now. pika would watch for the socket to be writable, which it nearly always is,
    and that costs a turn of the loop and more system calls than the sending.
    """
    sock = transport._sock  # noqa: SLF001 - pika has no public way to it
    if not isinstance(sock, socket.socket) or isinstance(sock, ssl.SSLSocket) or transport.get_write_buffer_size():
        return 0  # closed, encrypted, or behind what still waits to be sent
    try:
        return sock.send(data)
    except OSError:
        return 0  # full or broken: the transport finds out which, and knows what to do

"""uvicorn's HTTP protocol with bounds on the head of a request, which it leaves open.

Without them a client could send headers without end, and fill the memory, or send half a head and hold the connection
for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES: Final = 64 * 1024
HEAD_SECONDS: Final = 10.0
_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: application/problem+json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
)
_PROBLEM: Final = (
    b'{"type":"urn:outhaul:problem:head-too-large","title":"The headers are larger than are taken","status":431,'
    b'"detail":"at most 65536 bytes are taken"}'
)


class _OneWrite:
    """A transport that writes once a turn of the loop: uvicorn writes head and body apart, a packet each."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Hold it back until the turn's end, with what is written meanwhile."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        """Close when everything is written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            data, self._held = b"".join(self._held), []
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class BoundedProtocol(HttpToolsProtocol):
    """Answers 431 to a head beyond 64 KiB; ``close_overdue`` ends connections whose head takes longer than 10 s."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head_since: float | None = time.monotonic()
        self._head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """A client came."""
        one_write: Any = _OneWrite(transport)  # all of a transport, though not by its type
        super().connection_made(one_write)

    def data_received(self, data: bytes) -> None:
        """Parse, and count what belongs to an unfinished head."""
        super().data_received(data)
        if self.head_since is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE % (len(_PROBLEM), _PROBLEM))
                self.transport.close()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self.head_since = time.monotonic()
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self.head_since = None
        super().on_headers_complete()


def close_overdue(connections: Iterable[asyncio.Protocol], *, now: float) -> int:
    """Close the connections whose request has not a whole head yet and should have; returns how many."""
    overdue = [
        connection
        for connection in connections
        if isinstance(connection, BoundedProtocol)
        and connection.head_since is not None
        and now - connection.head_since > HEAD_SECONDS
    ]
    for connection in overdue:
        connection.transport.close()
    return len(overdue)

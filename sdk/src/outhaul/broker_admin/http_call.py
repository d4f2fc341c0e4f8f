"""One HTTP request by the standard library, bounded as a whole: neither a slow nor an endless answer holds it.

No proxy and no redirect: these requests carry credentials to a place an operator named.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: bytes


def call(
    method: str,
    url: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
    timeout_seconds: float,
    most_bytes: int = MOST_BYTES,
) -> Answer:
    """Ask, and read the answer within ``timeout_seconds`` all in all.

    Raises OSError (TimeoutError among them) when there is no answer in time, when it is longer than ``most_bytes``, or
    when it is no HTTP.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    connection = (
        http.client.HTTPSConnection(host, parts.port, timeout=timeout_seconds, context=context)
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, parts.port, timeout=timeout_seconds)
    )
    # The socket's own timeout starts anew with every byte received; this one does not.
    expired = threading.Event()
    sockets: list[socket.socket] = []
    watch = threading.Timer(timeout_seconds, _cut, (connection, sockets, expired))
    watch.daemon = True
    watch.start()
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.connect()
        # http.client lets go of it when an answer's end is the connection's, while the answer still reads from it.
        sockets.append(connection.sock)
        connection.request(method, target, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        content = response.read(most_bytes + 1)
    except (OSError, http.client.HTTPException) as error:
        # The socket's own timeout is as long, and may be the first of the two.
        if expired.is_set() or isinstance(error, TimeoutError):
            raise TimeoutError(f"no answer within {timeout_seconds:g} s") from error
        if isinstance(error, OSError):
            raise
        raise OSError(f"the answer is no HTTP: {type(error).__name__}") from error
    finally:
        watch.cancel()
        connection.close()
    if expired.is_set():
        raise TimeoutError(f"no whole answer within {timeout_seconds:g} s")
    if len(content) > most_bytes:
        raise OSError(f"the answer is longer than {most_bytes} bytes")
    return Answer(response.status, content)


def _cut(connection: http.client.HTTPConnection, sockets: list[socket.socket], expired: threading.Event) -> None:
    """Wake whoever reads from the socket, which closing alone would not."""
    expired.set()
    for held in (*sockets, connection.sock):
        if held is not None:
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)

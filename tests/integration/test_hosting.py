"""The HTTP server every function runs in: bounded in what it waits for, and orderly in its end."""

from __future__ import annotations

import asyncio
import socket

import pytest
from starlette.types import Receive, Scope, Send

from outhaul.errors import ConfigurationError
from outhaul.hosting import protocol
from outhaul.hosting.serving import HttpServer, listen


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def loopback() -> socket.socket:
    return listen("127.0.0.1", 0, host_setting="HOST", port_setting="PORT")


async def ask(port: int, request: bytes) -> bytes:
    """What comes back until the server ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


def test_half_a_head_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)

    async def run() -> tuple[bytes, bytes, bytes]:
        server = HttpServer(app, loopback(), drain_seconds=1)
        await server.start()
        port = int(server.address.rpartition(":")[2])
        whole = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answers = await asyncio.gather(ask(port, b""), ask(port, b"GET / HTTP/1.1\r\nHost:"), ask(port, whole))
        await server.stop()
        return answers

    silent, half, whole = asyncio.run(run())
    assert silent == half == b""
    assert whole.startswith(b"HTTP/1.1 204")


def test_a_server_that_is_stopped_twice_or_before_it_started_ends_in_order() -> None:
    async def run() -> None:
        sock = loopback()
        server = HttpServer(app, sock, drain_seconds=1)
        await server.stop()
        await server.start()
        await server.stop()
        await server.stop()
        sock.close()

    asyncio.run(run())


def test_an_address_that_cannot_be_had_names_its_setting() -> None:
    with loopback() as taken, pytest.raises(ConfigurationError) as caught:
        listen("127.0.0.1", taken.getsockname()[1], host_setting="HOST", port_setting="PORT")
    assert caught.value.setting == "PORT"
    for host in ("256.0.0.1", "192.0.2.1"):  # no address; an address that is not this machine's (RFC 5737)
        with pytest.raises(ConfigurationError) as caught:
            listen(host, 0, host_setting="HOST", port_setting="PORT")
        assert caught.value.setting == "HOST"

"""The proxy that the fault tests believe in."""

from __future__ import annotations

import socket
import time

from support_proxy import Proxy


def test_a_slow_close_is_told_to_the_server_at_once_and_to_the_client_later() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Proxy("127.0.0.1", server.getsockname()[1]) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client,
    ):
        far, _ = server.accept()
        with far:
            far.settimeout(10)
            far.sendall(b"hello")
            assert client.recv(5) == b"hello"
            proxy.close_slowly(1.0)
            began = time.monotonic()
            proxy.end_upstreams()
            assert far.recv(1) == b""
            told_server = time.monotonic() - began
            client.sendall(b"into the void")
            assert client.recv(1) == b""
            told_client = time.monotonic() - began
    assert told_server < 0.5
    assert 1.0 <= told_client < 3.0

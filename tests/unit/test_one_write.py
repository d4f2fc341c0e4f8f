"""What is written in one turn of the loop leaves in one piece, in order, on HTTP and on AMQP connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from outhaul.amqp.coalescing import _sent_at_once
from outhaul.hosting.protocol import _OneWrite


class Recorder(asyncio.Transport):
    """A transport that writes down what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[object] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.told.append(bytes(data))

    def close(self) -> None:
        self.told.append("close")

    def is_closing(self) -> bool:
        return "close" in self.told


def test_a_head_and_its_body_are_one_write() -> None:
    async def respond() -> list[object]:
        recorder = Recorder()
        transport = _OneWrite(recorder)
        transport.write(b"head")
        transport.write(b"body")
        assert recorder.told == []
        await asyncio.sleep(0)
        transport.write(b"next")
        await asyncio.sleep(0)
        return recorder.told

    assert asyncio.run(respond()) == [b"headbody", b"next"]


def test_a_close_comes_after_what_was_written() -> None:
    async def respond() -> list[object]:
        recorder = Recorder()
        transport = _OneWrite(recorder)
        transport.write(b"refused")
        transport.close()
        assert transport.is_closing()
        await asyncio.sleep(0)
        return recorder.told

    assert asyncio.run(respond()) == [b"refused", "close"]


class AmqpTransport:
    """What `_sent_at_once` looks at of pika's transport."""

    def __init__(self, sock: socket.socket | None, waiting_bytes: int = 0) -> None:
        self._sock = sock
        self._waiting_bytes = waiting_bytes

    def get_write_buffer_size(self) -> int:
        return self._waiting_bytes


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        yield near, far


def test_frames_go_to_a_socket_that_takes_them(ends: tuple[socket.socket, socket.socket]) -> None:
    near, far = ends
    assert _sent_at_once(AmqpTransport(near), b"frames") == 6
    assert far.recv(100) == b"frames"


def test_frames_never_overtake_those_that_wait(ends: tuple[socket.socket, socket.socket]) -> None:
    assert _sent_at_once(AmqpTransport(ends[0], waiting_bytes=1), b"frames") == 0


def test_a_full_socket_takes_a_part_and_then_nothing(ends: tuple[socket.socket, socket.socket]) -> None:
    near, _ = ends
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sent = _sent_at_once(AmqpTransport(near), bytes(1_000_000))
    assert 0 < sent < 1_000_000
    assert _sent_at_once(AmqpTransport(near), bytes(1_000_000)) == 0


def test_a_broken_or_closed_socket_is_left_to_the_transport(ends: tuple[socket.socket, socket.socket]) -> None:
    near, far = ends
    far.close()
    assert _sent_at_once(AmqpTransport(near), b"frames") == 0
    assert _sent_at_once(AmqpTransport(None), b"frames") == 0

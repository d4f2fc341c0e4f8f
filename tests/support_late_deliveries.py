"""A proxy before the broker that lets deliveries come late: after answers that the broker sent behind them.

A quorum queue's messages come from the member nearest to the channel, the answer to a cancel from its leader, so in a
cluster the one can overtake the other. This makes it happen on a single node, every time.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from dataclasses import dataclass, field
from typing import Any, Self

METHOD, HEADER, BODY = 1, 2, 3
FRAME_HEADER_SIZE, FRAME_END_SIZE = 7, 1
BASIC_DELIVER = (60, 60)


@dataclass(slots=True)
class _Content:
    """One delivery, until all its frames are here."""

    frames: bytearray = field(default_factory=bytearray)
    left: int | None = None  # bytes of the body; None before the header

    def add(self, kind: int, frame: bytes) -> bool:
        """Whether it is whole now."""
        self.frames += frame
        if kind == HEADER:
            [self.left] = struct.unpack_from(">Q", frame, FRAME_HEADER_SIZE + 4)
        elif kind == BODY and self.left is not None:
            self.left -= len(frame) - FRAME_HEADER_SIZE - FRAME_END_SIZE
        return self.left == 0


class LateDeliveries:
    """Forwards to ``host:port``; each delivery waits ``seconds``, in order, and nothing else does.

    ``overtaken`` counts deliveries that something overtook on its way to the client.
    """

    def __init__(self, host: str, port: int, *, seconds: float) -> None:
        self._target = (host, port)
        self._seconds = seconds
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="late deliveries", daemon=True)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.overtaken = 0
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection(*self._target)
        for work in (self._requests(reader, broker_writer), self._answers(broker_reader, writer)):
            task = self._loop.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _requests(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                writer.write(piece)
        except OSError:
            pass
        finally:
            writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        content: dict[int, _Content] = {}
        waiting = 0

        def let_go(frames: bytes) -> None:
            nonlocal waiting
            waiting -= 1
            if not writer.is_closing():
                writer.write(frames)

        try:
            while True:
                head = await reader.readexactly(FRAME_HEADER_SIZE)
                kind, channel, size = struct.unpack(">BHI", head)
                frame = head + await reader.readexactly(size + FRAME_END_SIZE)
                if kind == METHOD and struct.unpack_from(">HH", frame, FRAME_HEADER_SIZE) == BASIC_DELIVER:
                    content[channel] = _Content()
                if channel not in content:
                    self.overtaken += waiting if kind == METHOD else 0
                    writer.write(frame)
                elif content[channel].add(kind, frame):
                    waiting += 1
                    self._loop.call_later(self._seconds, let_go, bytes(content.pop(channel).frames))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

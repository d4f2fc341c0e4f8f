"""A TCP proxy on loopback that fails on command: refuses, resets, or swallows everything without a word."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

T = TypeVar("T")


class Proxy:
    """Forwards to ``host:port`` from a port of its own, on a thread of its own."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: asyncio.Event | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    @property
    def is_listening(self) -> bool:
        """Whether new connections are accepted."""
        return self._server is not None

    def stop(self) -> None:
        """Refuse new connections and close the open ones."""
        self._call(self._stop())

    def start(self) -> None:
        """Accept again, on the same port."""
        self._call(self._start())

    def blackhole(self) -> None:
        """Keep every connection and pass nothing on, in either direction: a half-open link."""
        self._call(self._pass_on(passing=False))

    def heal(self) -> None:
        """Pass on again, what was held back too."""
        self._call(self._pass_on(passing=True))

    def reset(self) -> None:
        """End the open connections with a reset, as a firewall or a crashed host would."""
        self._call(self._reset())

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self) -> None:
        if self._open is None:
            self._open = asyncio.Event()
            self._open.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.close()

    async def _reset(self) -> None:
        for writer in list(self._writers):
            sock = writer.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _pass_on(self, *, passing: bool) -> None:
        if self._open is not None:
            if passing:
                self._open.set()
            else:
                self._open.clear()

    async def _end(self) -> None:
        await self._pass_on(passing=True)
        await self._stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # One more turn, in which closed transports report their end.
        await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            upstream_reader, upstream = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            self._writers.discard(writer)
            return
        self._writers.add(upstream)
        pumps = [
            self._loop.create_task(self._pump(reader, upstream)),
            self._loop.create_task(self._pump(upstream_reader, writer)),
        ]
        self._tasks.update(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for each in (writer, upstream):
            each.close()
            self._writers.discard(each)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        self._tasks.difference_update(pumps)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._open is not None
        try:
            while data := await reader.read(65536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            return

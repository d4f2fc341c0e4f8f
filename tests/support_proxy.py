"""A TCP proxy on loopback that fails on command: refuses, resets, delays, cuts in two, or swallows without a word."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

T = TypeVar("T")


class Proxy:
    """Forwards to ``host:port`` from a port of its own, on a thread of its own.

    With ``others`` each new connection goes to the next of all targets that takes it, as through a balancer.
    ``accepted`` counts connections so far, whatever became of them.
    """

    def __init__(self, host: str, port: int, *others: tuple[str, int]) -> None:
        self._targets = [(host, port), *others]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._upstreams: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._open: asyncio.Event | None = None
        self._answers: asyncio.Event | None = None
        self._delay_seconds = 0.0
        self._close_seconds = 0.0
        self._bytes_until_cut: int | None = None
        self.accepted = 0
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

    def swallow_answers(self) -> None:
        """Pass on what clients say and hold back what they are answered: it is done, and they never learn of it."""
        self._call(self._half_open())

    def delay(self, seconds: float) -> None:
        """Let every piece of every stream wait that long before it is passed on."""
        self._delay_seconds = seconds

    def close_slowly(self, seconds: float) -> None:
        """When one side closes, tell the other only that much later."""
        self._close_seconds = seconds

    def end_upstreams(self) -> None:
        """Close the far end of every open connection in order, as its server would: see :meth:`close_slowly`."""
        self._call(self._end_upstreams())

    def cut_after(self, size_bytes: int) -> None:
        """Pass that many bytes more, wherever in a frame that ends, and reset every connection."""
        self._bytes_until_cut = size_bytes

    def heal(self) -> None:
        """Pass on again, at once, what was held back too. What was stopped stays so: see :meth:`start`."""
        self._delay_seconds = self._close_seconds = 0.0
        self._bytes_until_cut = None
        self._call(self._pass_on(passing=True))

    def reset(self) -> None:
        """End the open connections with a reset, as a firewall or a crashed host would."""
        self._call(self._reset())

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self) -> None:
        if self._open is None:
            self._open, self._answers = asyncio.Event(), asyncio.Event()
            self._open.set()
            self._answers.set()
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

    async def _end_upstreams(self) -> None:
        for upstream in list(self._upstreams):
            upstream.close()

    async def _pass_on(self, *, passing: bool) -> None:
        for gate in (self._open, self._answers):
            if gate is not None:
                if passing:
                    gate.set()
                else:
                    gate.clear()

    async def _half_open(self) -> None:
        if self._answers is not None:
            self._answers.clear()

    async def _end(self) -> None:
        await self._pass_on(passing=True)
        await self._stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # One more turn, in which closed transports report their end.
        await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.add(writer)
        connecting = self._loop.create_task(self._connect())
        self._tasks.add(connecting)
        connected = await connecting
        self._tasks.discard(connecting)
        if connected is None:
            writer.close()
            self._writers.discard(writer)
            return
        upstream_reader, upstream = connected
        self._writers.add(upstream)
        self._upstreams.add(upstream)
        assert self._open is not None
        assert self._answers is not None
        pumps = [
            self._loop.create_task(self._pump(reader, upstream, self._open)),
            self._loop.create_task(self._pump(upstream_reader, writer, self._answers)),
        ]
        self._tasks.update(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        if self._close_seconds:
            await asyncio.sleep(self._close_seconds)
        for each in (writer, upstream):
            each.close()
            self._writers.discard(each)
            self._upstreams.discard(each)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        self._tasks.difference_update(pumps)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in range(len(self._targets)):
            self._targets.append(self._targets.pop(0))
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(*self._targets[-1])
        return None

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        try:
            while data := await reader.read(65536):
                if self._delay_seconds:
                    await asyncio.sleep(self._delay_seconds)
                await gate.wait()
                if self._bytes_until_cut is not None:
                    self._bytes_until_cut -= len(data)
                    if self._bytes_until_cut <= 0:
                        # What is still owed, so that the stream ends within a frame.
                        writer.write(data[: len(data) + self._bytes_until_cut])
                        await writer.drain()
                        self._bytes_until_cut = None
                        await self._reset()
                        return
                writer.write(data)
                await writer.drain()
        except OSError:
            return

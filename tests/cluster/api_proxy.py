"""An API server that tests can take away, and that can end its client at a request of the test's choice."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

import httpx2
from aiohttp import web
from lightkube.config.client_adapter import AsyncClient, ConnectionParams
from lightkube.config.kubeconfig import SingleConfig

from outhaul_local import ports

T = TypeVar("T")
# The client's own connection and credentials stay between it and the proxy.
_NOT_FORWARDED = {"host", "authorization", "accept-encoding", "connection", "content-length", "transfer-encoding"}
_NOT_RETURNED = {"connection", "content-length", "transfer-encoding", "content-encoding"}


@dataclass(slots=True)
class Fuse:
    """Ends the client at the first request that matches: before the API server hears of it, or once it has answered.

    ``blown`` is set when it did.
    """

    method: str
    path: re.Pattern[str]
    when: Literal["before", "after"]
    end_client: Callable[[], None]
    blown: threading.Event

    def matches(self, request: web.Request) -> bool:
        """Whether it is to blow now."""
        return not self.blown.is_set() and request.method == self.method and bool(self.path.search(request.path))

    def blow(self) -> None:
        """End the client."""
        self.end_client()
        self.blown.set()


class ApiProxy:
    """Forwards plain HTTP on loopback to the API server, with the tests' credentials. Entered, it listens."""

    def __init__(self, upstream: SingleConfig) -> None:
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api-proxy", daemon=True)
        self._client: httpx2.AsyncClient | None = None
        self._runner: web.AppRunner | None = None
        self._fuse: Fuse | None = None
        self.port = ports.free_port()

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._open())
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def start(self) -> None:
        """Answer, on the same port as before."""
        self._call(self._start())

    def stop(self) -> None:
        """Refuse connections and close the open ones, as an API server that ends."""
        self._call(self._stop())

    def fuse(
        self, method: str, path: str, when: Literal["before", "after"], end_client: Callable[[], None]
    ) -> threading.Event:
        """Put one in; ``path`` is a pattern. The event is set once it has blown."""
        self._fuse = Fuse(method, re.compile(path), when, end_client, threading.Event())
        return self._fuse.blown

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _open(self) -> None:
        # A watch lasts as long as its client wants.
        timeout = httpx2.Timeout(30, read=None, pool=None)
        self._client = AsyncClient(self._upstream, ConnectionParams(timeout=timeout, trust_env=False))

    async def _close(self) -> None:
        assert self._client is not None
        await self._client.aclose()

    async def _start(self) -> None:
        application = web.Application(client_max_size=16 * 2**20)
        application.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        assert self._client is not None
        body = await request.read()
        fuse = self._fuse if self._fuse is not None and self._fuse.matches(request) else None
        if fuse is not None and fuse.when == "before":
            fuse.blow()
            return web.Response(status=503)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _NOT_FORWARDED}
        async with self._client.stream(request.method, request.raw_path, headers=headers, content=body) as answer:
            if fuse is not None:
                await answer.aread()
                fuse.blow()
                return web.Response(status=503)
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _NOT_RETURNED}
            response = web.StreamResponse(status=answer.status_code, headers=kept)
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):  # the client has seen enough of a watch
                async for chunk in answer.aiter_bytes():
                    await response.write(chunk)
                await response.write_eof()
            return response

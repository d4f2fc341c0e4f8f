"""An HTTP server that starts when told, and ends by finishing what it has begun.

uvicorn takes over the process's signals and, having stopped, raises them again, which ends the process by the signal
instead of with 0. Here the process owns its signals, and the server is one of several parts that it stops in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Iterator

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.server import Server

from outhaul.errors import ConfigurationError
from outhaul.hosting.protocol import BoundedProtocol, close_overdue

KEEP_ALIVE_SECONDS = 75  # longer than the idle timeout of usual proxies, so that they close first
BACKLOG = 2048


def listen(host: str, port: int, *, host_setting: str, port_setting: str) -> socket.socket:
    """A listening socket, so that a taken port is known at start. Raises ConfigurationError naming the setting."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigurationError(host_setting, host, f"is no address of this machine: {error.strerror}") from error
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        # At once: SO_REUSEADDR lets two processes bind one port, and only one of them listen.
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        setting, value = (host_setting, host) if "assign" in str(error.strerror) else (port_setting, str(port))
        raise ConfigurationError(setting, value, f"cannot listen on {host}:{port}: {error.strerror}") from error
    sock.setblocking(False)
    return sock


def stop_on_signals() -> asyncio.Event:
    """Set at SIGTERM or SIGINT. Needs the running loop of the main thread."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


class HttpServer:
    """uvicorn on a bound socket. ``drain_seconds`` bounds how long requests in flight may take once stopped."""

    def __init__(self, app: ASGIApp, sock: socket.socket, *, drain_seconds: float) -> None:
        self._sock = sock
        # uvicorn tells of its start and end; the process that has it tells of its own.
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        self._server = _Server(
            Config(
                app,
                http=BoundedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=max(1, round(drain_seconds)),
            )
        )
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """``host:port`` as it is bound; the port that was chosen when 0 was asked for."""
        host, port = self._sock.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def start(self) -> None:
        """Accept connections from when this returns."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._sock]), name="http")
        started = asyncio.create_task(self._server.accepting.wait())
        await asyncio.wait({self._task, started}, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if self._task.done():
            self._task.result()

    async def wait(self, stop: asyncio.Event) -> None:
        """Until ``stop`` is set. A server that ends by itself raises what ended it, or RuntimeError."""
        assert self._task is not None
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({self._task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if self._task.done():
            self._task.result()
            raise RuntimeError("the HTTP server ended by itself")

    async def stop(self) -> None:
        """Stop accepting, finish what was begun (to the drain bound), close."""
        if self._task is not None:
            self._server.should_exit = True
            await self._task


class _Server(Server):
    """uvicorn's server without its hold on the signals, and with an event when it accepts."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.accepting.set()

    async def on_tick(self, counter: int) -> bool:
        # uvicorn calls it ten times a second.
        if counter % 10 == 0:
            close_overdue(self.server_state.connections, now=time.monotonic())
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

"""`/healthz`, `/readyz` and `/metrics` of the operator.

Healthy is a loop that turns; ready, one that has also begun to watch. Neither depends on any database or broker:
restarting the operator would heal none of them.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from aiohttp import web

from outhaul.errors import ConfigurationError
from outhaul_operator.metrics import OperatorMetrics

State = Callable[[], str | None]
_GRACE_SECONDS = 0.1


class HealthServer:
    """Answers on a socket bound at start, so that a taken port is known then.

    ``unwell`` says why the process should be started anew, ``not_ready`` why it is not at work yet; None is well.
    """

    def __init__(self, sock: socket.socket, *, unwell: State, not_ready: State, metrics: OperatorMetrics) -> None:
        self._sock = sock
        self._unwell = unwell
        self._not_ready = not_ready
        self._metrics = metrics
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._exposition),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_GRACE_SECONDS)

    @property
    def address(self) -> str:
        """``host:port`` as it is bound; the port that was chosen when 0 was asked for."""
        host, port = self._sock.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def start(self) -> None:
        """Answer from when this returns."""
        await self._runner.setup()
        await web.SockSite(self._runner, self._sock).start()

    async def stop(self) -> None:
        """Close at once what is idle, and the rest within a tenth of a second."""
        await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _state(self._unwell())

    async def _readyz(self, _request: web.Request) -> web.Response:
        return _state(self._not_ready())

    async def _exposition(self, _request: web.Request) -> web.Response:
        body, content_type = self._metrics.exposition()
        return web.Response(body=body, headers={"Content-Type": content_type})


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigurationError naming the setting that cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigurationError(
            "OUTHAUL_HTTP_HOST", host, f"is no address of this machine: {error.strerror}"
        ) from error
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(64)
    except OSError as error:
        sock.close()
        raise ConfigurationError(
            "OUTHAUL_HTTP_PORT", port, f"cannot listen on {host}:{port}: {error.strerror}"
        ) from error
    sock.setblocking(False)
    return sock


def _state(trouble: str | None) -> web.Response:
    if trouble is not None:
        return web.json_response({"status": "unwell", "detail": trouble}, status=503)
    return web.json_response({"status": "ok"})

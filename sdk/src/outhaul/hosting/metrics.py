"""What every function counts of its HTTP side, beside what Outhaul counts of messages."""

from __future__ import annotations

import importlib
import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from outhaul.hosting.problems import INTERNAL_ERROR, Problem
from outhaul.metrics import HANDLER_BUCKETS_SECONDS, Counter, Histogram, Metrics

Endpoint = Callable[[Request], Awaitable[Response]]


class HttpMetrics:
    """Counters in the registry of ``metrics``; they count nothing where that has none."""

    def __init__(self, metrics: Metrics) -> None:
        self.requests = Counter(
            "outhaul_http_requests_total",
            "Requests to this function's own paths, by answer",
            {"route": (), "status": ()},
        )
        self.request_seconds = Histogram(
            "outhaul_http_request_seconds",
            "From a request to this function's own paths to its answer",
            HANDLER_BUCKETS_SECONDS,
        )
        if metrics.registry is not None:
            client = importlib.import_module("prometheus_client")
            for instrument in (self.requests, self.request_seconds):
                instrument.register(client, metrics.registry)

    def answered(self, route: str, status: int, started: float) -> None:
        """Count one answer; ``started`` is ``time.perf_counter()`` at the request."""
        self.requests.inc(route=route, status=str(status))
        self.request_seconds.observe(time.perf_counter() - started)

    def counted(self, route: str, endpoint: Endpoint) -> Endpoint:
        """The endpoint, each of its answers counted."""

        async def counting(request: Request) -> Response:
            started = time.perf_counter()
            status = INTERNAL_ERROR.status
            try:
                response = await endpoint(request)
                status = response.status_code
            except Problem as problem:
                status = problem.kind.status
                raise
            finally:
                self.answered(route, status, started)
            return response

        return counting

"""What every function counts of its HTTP side, beside what Outhaul counts of messages."""

from __future__ import annotations

import importlib

from outhaul.metrics import HANDLER_BUCKETS_SECONDS, Counter, Histogram, Metrics


class HttpMetrics:
    """Counters in the registry of ``metrics``; they count nothing where that has none."""

    def __init__(self, metrics: Metrics) -> None:
        self.requests = Counter(
            "outhaul_http_requests_total",
            "Requests to this function's own paths, by answer",
            {"route": (), "status": ()},
        )
        self.order_seconds = Histogram(
            "outhaul_http_order_seconds", "From an order's request to its answer", HANDLER_BUCKETS_SECONDS
        )
        if metrics.registry is not None:
            client = importlib.import_module("prometheus_client")
            for instrument in (self.requests, self.order_seconds):
                instrument.register(client, metrics.registry)

"""What Outhaul counts, as Prometheus metrics; without ``prometheus_client`` installed, it counts nothing and goes on.

A sender or consumer is given one `Metrics`; the data path calls ``metrics.published.inc(outcome="confirmed")`` and
knows nothing of Prometheus. Counters whose labels are known beforehand start at 0, because an alert on ``increase()``
cannot see a counter's first step from nothing to 1; gauges appear when they are first set.

docs/reference/metrics.md is checked against this module.
"""

from __future__ import annotations

import importlib
import itertools
import threading
from collections.abc import Mapping, Sequence
from typing import Any

TEXT = "text/plain; version=0.0.4; charset=utf-8"

# Confirms come within milliseconds; an outage shows in the last bucket. Bounds stand around the 50 ms goal.
LATENCY_BUCKETS_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0)
HANDLER_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
BATCH_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

# Why messages are dead-lettered (outhaul.deadletter.Reason, which stands above this module; a test compares them).
# A handler may add reasons of its own.
DEAD_LETTER_REASONS = (
    "malformed",
    "not-a-cloudevent",
    "invalid-id",
    "invalid-data",
    "unknown-type",
    "unknown-version",
    "oversize",
    "too-old",
    "collision",
    "rejected",
    "unique-violation",
    "transaction-ended",
    "exhausted",
    "crashed",
)


class Instrument:
    """One metric by name. ``labels`` maps each label to the values known beforehand (empty: any value)."""

    kind = "untyped"

    def __init__(self, name: str, meaning: str, labels: Mapping[str, Sequence[str]] | None = None) -> None:
        self.name = name
        self.meaning = meaning
        self.labels: Mapping[str, Sequence[str]] = labels or {}
        self._metric: Any = None
        self._children: dict[tuple[str, ...], Any] = {}

    def register(self, client: Any, registry: Any) -> None:
        """Create the Prometheus metric and the series known beforehand."""
        self._metric = self._create(client, registry)
        if self.labels and all(self.labels.values()):
            for values in itertools.product(*self.labels.values()):
                self._child(dict(zip(self.labels, values, strict=True)))

    def _create(self, client: Any, registry: Any) -> Any:
        raise NotImplementedError

    def _child(self, labels: Mapping[str, str]) -> Any:
        """The series of these labels; kept, since prometheus_client's own look-up costs more than the count."""
        if not self.labels:
            return self._metric
        values = tuple(labels[name] for name in self.labels)
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._metric.labels(*values)
        return child


class Counter(Instrument):
    """Grows only."""

    kind = "counter"

    def inc(self, amount: float = 1, **labels: str) -> None:
        """Add ``amount``; every label of the metric must be given."""
        if self._metric is not None:
            self._child(labels).inc(amount)

    def _create(self, client: Any, registry: Any) -> Any:
        return client.Counter(self.name, self.meaning, tuple(self.labels), registry=registry)


class Gauge(Instrument):
    """A value that goes up and down. There is no series until it is first set.

    A producer that reported 0 for "subscribed to the queue" would raise the alarm of a dead consumer, and a consumer
    that reported 0 for the outbox's age would silence that of a dead sender.
    """

    kind = "gauge"

    def __init__(self, name: str, meaning: str, labels: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__(name, meaning, labels)
        self._home: tuple[Any, Any] | None = None
        self._creating = threading.Lock()

    def register(self, client: Any, registry: Any) -> None:
        """Remember where the metric belongs; it is created when it has a value."""
        self._home = (client, registry)

    def set(self, value: float, **labels: str) -> None:
        """Replace the value; every label of the metric must be given."""
        if self._home is None:
            return
        if self._metric is None:
            with self._creating:
                if self._metric is None:
                    self._metric = self._create(*self._home)
        self._child(labels).set(value)

    def remove(self, **labels: str) -> None:
        """Forget one series, so that labels of open values (routing keys) do not pile up for ever."""
        values = tuple(labels[name] for name in self.labels)
        if self._children.pop(values, None) is not None:
            self._metric.remove(*values)

    def _create(self, client: Any, registry: Any) -> Any:
        return client.Gauge(self.name, self.meaning, tuple(self.labels), registry=registry)


class Histogram(Instrument):
    """How values are spread over buckets."""

    kind = "histogram"

    def __init__(self, name: str, meaning: str, buckets: Sequence[float]) -> None:
        super().__init__(name, meaning)
        self.buckets = buckets

    def observe(self, value: float) -> None:
        """Count one value."""
        if self._metric is not None:
            self._metric.observe(value)

    def _create(self, client: Any, registry: Any) -> Any:
        return client.Histogram(self.name, self.meaning, registry=registry, buckets=self.buckets)


class Metrics:
    """All metrics of one sender or consumer, in ``registry`` or in one of their own.

    Give ``prometheus_client.REGISTRY`` to have them beside your application's; then make one Metrics per process,
    since a registry takes each name once.
    """

    def __init__(self, registry: Any = None, *, enabled: bool = True) -> None:
        self.published = Counter(
            "outhaul_messages_published_total",
            "Publishing attempts by what became of them; only confirmed ones count as sent",
            {"outcome": ("confirmed", "unroutable", "no-exchange", "nacked", "unconfirmed", "refused", "unknown")},
        )
        self.sent = Counter(
            "outhaul_messages_sent_total", "Outbox rows marked sent, that is moved to the history after their confirm"
        )
        self.outbox_rows = Gauge(
            "outhaul_outbox_rows",
            "Rows in the outbox: free to take, leased to a sender, or parked until a person decides",
            {"status": ("free", "leased", "parked")},
        )
        self.outbox_oldest_age_seconds = Gauge(
            "outhaul_outbox_oldest_age_seconds", "Age of the oldest row not yet confirmed and not parked; 0 when none"
        )
        self.publish_confirm_seconds = Histogram(
            "outhaul_publish_confirm_seconds", "From publishing to the broker's confirm", LATENCY_BUCKETS_SECONDS
        )
        self.commit_to_confirm_seconds = Histogram(
            "outhaul_commit_to_confirm_seconds",
            "From the row's creation by the database's clock to the broker's confirm by this host's",
            LATENCY_BUCKETS_SECONDS,
        )
        self.window_messages = Gauge("outhaul_window_messages", "Messages published and not yet settled")
        self.breaker_open = Gauge(
            "outhaul_breaker_open",
            "1 while messages of this route are held back because the last could not be delivered",
            {"exchange": (), "routing_key": ()},
        )
        self.lease_lost = Counter("outhaul_lease_lost_total", "Rows whose lease had ended before they were settled")
        self.parked = Counter(
            "outhaul_messages_parked_total", "Rows given up on until a person decides", {"reason": ("refused",)}
        )
        self.default_partition_rows = Gauge(
            "outhaul_default_partition_rows",
            "Rows in a table's default partition: the daily partition was missing when they came",
            {"table": ()},
        )
        self.oldest_transaction_seconds = Gauge(
            "outhaul_oldest_transaction_seconds",
            "Age of the oldest open transaction in the database: it keeps dead rows of the hot tables alive",
        )
        self.connected = Gauge(
            "outhaul_broker_connected", "1 while the connection is open", {"role": ("publisher", "consumer")}
        )
        self.broker_blocked = Gauge(
            "outhaul_broker_blocked", "1 while the broker blocks publishing: a memory or disk alarm"
        )
        self.connections_lost = Counter(
            "outhaul_connections_lost_total",
            "Connections that ended without being asked to",
            {"role": ("publisher", "consumer", "database")},
        )
        self.consumed = Counter(
            "outhaul_inbox_consumed_total",
            "Deliveries by what became of them",
            {"result": ("done", "duplicate", "retried", "dead_lettered")},
        )
        self.consumer_batch_size = Histogram(
            "outhaul_consumer_batch_size", "Messages handled in one transaction", BATCH_BUCKETS
        )
        self.handler_seconds = Histogram(
            "outhaul_handler_seconds",
            "One transaction of the consumer: inbox, handler, commit",
            HANDLER_BUCKETS_SECONDS,
        )
        self.commit_to_consumed_seconds = Histogram(
            "outhaul_commit_to_consumed_seconds",
            "From the message's creation by the producer's database clock to its effect's commit by this host's",
            LATENCY_BUCKETS_SECONDS,
        )
        self.consumer_active = Gauge("outhaul_consumer_active", "1 while subscribed to the queue")
        self.consumer_outage = Gauge(
            "outhaul_consumer_outage", "1 while no messages are taken because the consumer's database is away"
        )
        self.consumer_prefetch = Gauge(
            "outhaul_consumer_prefetch",
            "Messages the broker may hand over ahead; 1 until the consumer has proved itself",
        )
        self.handler_timeouts = Counter(
            "outhaul_handler_timeouts_total", "Handlers that did not end in time; each ends the process"
        )
        self.dead_letters = Counter(
            "outhaul_dead_letters_total", "Messages put into the dead-letter queue", {"reason": DEAD_LETTER_REASONS}
        )
        self.retries = Counter("outhaul_retries_total", "Messages sent to a delay tier after a failure of their own")
        self.alerts = Counter(
            "outhaul_alerts_total",
            "Alerts by what became of them; dropped ones found the queue to the webhook full",
            {"result": ("delivered", "failed", "dropped")},
        )
        self.registry: Any = None
        if enabled:
            self._register(registry)

    @classmethod
    def off(cls) -> Metrics:
        """Metrics that count nothing."""
        return cls(enabled=False)

    def instruments(self) -> list[Instrument]:
        """Every metric, in the order of their definition."""
        return [value for value in vars(self).values() if isinstance(value, Instrument)]

    def exposition(self) -> tuple[bytes, str]:
        """The body and content type for a ``/metrics`` endpoint; an explaining comment without prometheus_client."""
        if self.registry is None:
            return b"# install outhaul[metrics] to have metrics here\n", TEXT
        return importlib.import_module("prometheus_client").generate_latest(self.registry), TEXT

    def _register(self, registry: Any) -> None:
        try:
            # Imported here: prometheus_client costs time and memory that a process without metrics need not spend.
            client = importlib.import_module("prometheus_client")
        except ModuleNotFoundError:
            return
        if registry is None:
            registry = client.CollectorRegistry()
            client.ProcessCollector(registry=registry)
        self.registry = registry
        for instrument in self.instruments():
            instrument.register(client, registry)


def reference_page() -> str:
    """Every metric as a Markdown table, as docs/reference/metrics.md holds it."""
    rows = []
    for instrument in Metrics.off().instruments():
        labels = ", ".join(
            f"`{label}`" + (f" ({', '.join(values)})" if values else "") for label, values in instrument.labels.items()
        )
        rows.append(f"| `{instrument.name}` | {instrument.kind} | {labels} | {instrument.meaning} |")
    return "\n".join(("| name | kind | labels | meaning |", "|---|---|---|---|", *rows)) + "\n"

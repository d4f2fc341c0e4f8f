"""What the operator counts of its own work and shows of the objects it looks after.

Series of an object carry its namespace and name, are as many as there are objects up to a bound, and go with it.
docs/reference/metrics.md is checked against this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import prometheus_client

from outhaul.metrics import HANDLER_BUCKETS_SECONDS, Counter, Gauge, Histogram, Instrument

KINDS: Final = ("Outbox", "Inbox", "Resend", "Redrive")
LAG_BUCKETS_SECONDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_MOST_OBJECTS: Final = 5000
_OBJECT: Final = {"namespace": (), "name": ()}


class OperatorMetrics:
    """All metrics of one operator, in a registry of their own."""

    def __init__(self, *, enabled: bool = True, most_objects: int = _MOST_OBJECTS) -> None:
        self.objects = Gauge("outhaul_operator_objects", "Custom resources looked after")
        self.looks = Counter(
            "outhaul_operator_looks_total",
            "Looks by what became of them; a failed one is tried again with backoff",
            {"kind": KINDS, "result": ("done", "failed", "gone")},
        )
        self.look_seconds = Histogram(
            "outhaul_operator_look_seconds", "From a look's beginning to its end", HANDLER_BUCKETS_SECONDS
        )
        self.look_lag_seconds = Histogram(
            "outhaul_operator_look_lag_seconds", "How much later than due a look began", LAG_BUCKETS_SECONDS
        )
        self.conflicts = Counter(
            "outhaul_operator_status_conflicts_total",
            "Statuses not written because the object had changed meanwhile; it is read and looked at again",
            {"kind": KINDS},
        )
        self.jobs = Counter("outhaul_operator_jobs_created_total", "Jobs made", {"kind": KINDS})
        self.troubles = Counter(
            "outhaul_operator_troubles_total",
            "Looks that found the database or the broker in trouble",
            {"part": (), "reason": ()},
        )
        self.api_errors = Counter(
            "outhaul_operator_api_errors_total",
            "Requests that the API server refused or did not answer, by status code or the way they failed",
            {"code": ()},
        )
        self.outbox_pending = Gauge("outhaul_operator_outbox_pending", "Rows not yet sent", _OBJECT)
        self.outbox_stuck = Gauge(
            "outhaul_operator_outbox_stuck", "Rows that were free to take for longer than stuckAfter", _OBJECT
        )
        self.outbox_parked = Gauge("outhaul_operator_outbox_parked", "Rows parked until a person decides", _OBJECT)
        self.outbox_oldest_age_seconds = Gauge(
            "outhaul_operator_outbox_oldest_age_seconds", "Age of the oldest row not yet sent; 0 when none", _OBJECT
        )
        self.inbox_depth = Gauge("outhaul_operator_inbox_depth", "Messages in the consumer's queue", _OBJECT)
        self.inbox_dead_letters = Gauge(
            "outhaul_operator_inbox_dead_letters", "Messages in the dead-letter queue", _OBJECT
        )
        self.ready = Gauge(
            "outhaul_operator_ready", "1 while the object's condition Ready is true", {"kind": (), **_OBJECT}
        )
        # The instant of each counter's creation would double their series, and tells nobody anything.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call] # it has no types
        self.registry = prometheus_client.CollectorRegistry()
        self._most_objects = most_objects
        self._shown: set[tuple[str, str, str]] = set()
        if enabled:
            prometheus_client.ProcessCollector(registry=self.registry)
            for instrument in self.instruments():
                self.register(instrument)

    def register(self, instrument: Instrument) -> None:
        """Expose one more metric: one that the SDK counts."""
        instrument.register(prometheus_client, self.registry)

    def instruments(self) -> list[Instrument]:
        """Every metric, in the order of their definition."""
        return [value for value in vars(self).values() if isinstance(value, Instrument)]

    def exposition(self) -> tuple[bytes, str]:
        """The body and content type for ``/metrics``."""
        return prometheus_client.generate_latest(self.registry), "text/plain; version=0.0.4; charset=utf-8"

    def show(self, kind: str, namespace: str, name: str, status: Mapping[str, Any], now: datetime) -> None:
        """Set an object's gauges from its status. Beyond the bound on objects, nothing is shown of one more."""
        key = (kind, namespace, name)
        if key not in self._shown:
            if len(self._shown) >= self._most_objects:
                return
            self._shown.add(key)
        of = {"namespace": namespace, "name": name}
        self.ready.set(_is_ready(status), kind=kind, **of)
        for field, gauge in self._gauges(kind).items():
            value = status.get(field)
            if isinstance(value, int) and not isinstance(value, bool):
                gauge.set(value, **of)
        if kind == "Outbox":
            self.outbox_oldest_age_seconds.set(_age_seconds(status.get("oldestAt"), now), **of)

    def forget(self, kind: str, namespace: str, name: str) -> None:
        """The object is gone, and so are its series."""
        if (kind, namespace, name) not in self._shown:
            return
        self._shown.discard((kind, namespace, name))
        of = {"namespace": namespace, "name": name}
        self.ready.remove(kind=kind, **of)
        for gauge in self._gauges(kind).values():
            gauge.remove(**of)
        if kind == "Outbox":
            self.outbox_oldest_age_seconds.remove(**of)

    def _gauges(self, kind: str) -> dict[str, Gauge]:
        """The gauges of a kind, by the field of its status they show."""
        if kind == "Outbox":
            return {"pending": self.outbox_pending, "stuck": self.outbox_stuck, "parked": self.outbox_parked}
        if kind == "Inbox":
            return {"depth": self.inbox_depth, "deadLetters": self.inbox_dead_letters}
        return {}


def _is_ready(status: Mapping[str, Any]) -> bool:
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in status.get("conditions", ()))


def _age_seconds(instant: object, now: datetime) -> float:
    if not isinstance(instant, str):
        return 0.0
    try:
        return max(0.0, (now - datetime.fromisoformat(instant)).total_seconds())
    except ValueError:
        return 0.0


def reference_page() -> str:
    """Every metric as a Markdown table, as docs/reference/metrics.md holds it."""
    rows = []
    for instrument in OperatorMetrics(enabled=False).instruments():
        labels = ", ".join(
            f"`{label}`" + (f" ({', '.join(values)})" if values else "") for label, values in instrument.labels.items()
        )
        rows.append(f"| `{instrument.name}` | {instrument.kind} | {labels} | {instrument.meaning} |")
    return "\n".join(("| name | kind | labels | meaning |", "|---|---|---|---|", *rows)) + "\n"

"""What the operator shows of the objects it looks after: with them, bounded, and gone with them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from outhaul_operator.metrics import OperatorMetrics, reference_page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "metrics.md"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OUTBOX = {
    "pending": 7,
    "stuck": 2,
    "parked": 1,
    "oldestAt": "2026-01-02T03:03:05Z",
    "conditions": [{"type": "Ready", "status": "False"}, {"type": "Draining", "status": "True"}],
}


def sample(metrics: OperatorMetrics, metric: str, /, **labels: str) -> float | None:
    value: float | None = metrics.registry.get_sample_value(metric, labels)
    return value


def test_an_outbox_is_shown_as_its_status_tells() -> None:
    metrics = OperatorMetrics()
    metrics.show("Outbox", "shop", "orders", OUTBOX, NOW)

    of = {"namespace": "shop", "name": "orders"}
    assert sample(metrics, "outhaul_operator_outbox_pending", **of) == 7
    assert sample(metrics, "outhaul_operator_outbox_stuck", **of) == 2
    assert sample(metrics, "outhaul_operator_outbox_parked", **of) == 1
    assert sample(metrics, "outhaul_operator_outbox_oldest_age_seconds", **of) == 60
    assert sample(metrics, "outhaul_operator_ready", kind="Outbox", **of) == 0


def test_an_empty_outbox_has_no_oldest_row() -> None:
    metrics = OperatorMetrics()
    metrics.show("Outbox", "shop", "orders", {"pending": 0, "conditions": [{"type": "Ready", "status": "True"}]}, NOW)

    of = {"namespace": "shop", "name": "orders"}
    assert sample(metrics, "outhaul_operator_outbox_oldest_age_seconds", **of) == 0
    assert sample(metrics, "outhaul_operator_ready", kind="Outbox", **of) == 1


def test_a_deleted_object_takes_its_series_with_it() -> None:
    metrics = OperatorMetrics()
    metrics.show("Outbox", "shop", "orders", OUTBOX, NOW)
    metrics.show("Inbox", "shop", "orders", {"depth": 3, "deadLetters": 4}, NOW)
    metrics.forget("Outbox", "shop", "orders")

    text = metrics.exposition()[0].decode()
    assert "outhaul_operator_outbox_pending{" not in text
    assert "outhaul_operator_outbox_oldest_age_seconds{" not in text
    assert 'outhaul_operator_inbox_dead_letters{name="orders",namespace="shop"} 4.0' in text
    assert 'kind="Inbox",name="orders",namespace="shop"' in text
    metrics.forget("Inbox", "shop", "orders")
    metrics.forget("Inbox", "shop", "never seen")
    assert 'name="orders"' not in metrics.exposition()[0].decode()


def test_more_objects_than_the_bound_are_counted_but_not_shown() -> None:
    metrics = OperatorMetrics(most_objects=2)
    for number in range(3):
        metrics.show("Outbox", "shop", f"o{number}", OUTBOX, NOW)
    assert metrics.exposition()[0].decode().count("outhaul_operator_outbox_pending{") == 2

    metrics.forget("Outbox", "shop", "o0")
    metrics.show("Outbox", "shop", "o2", OUTBOX, NOW)
    assert sample(metrics, "outhaul_operator_outbox_pending", namespace="shop", name="o2") == 7


def test_every_name_of_the_operator_follows_prometheus_naming() -> None:
    for instrument in OperatorMetrics(enabled=False).instruments():
        assert instrument.name.startswith("outhaul_operator_")
        assert instrument.name.endswith("_total") == (instrument.kind == "counter")


def test_the_metrics_page_lists_what_the_operator_shows() -> None:
    assert reference_page() in PAGE.read_text(), "copy outhaul_operator.metrics.reference_page() into it"

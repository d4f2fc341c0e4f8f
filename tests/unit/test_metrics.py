"""Metrics: counted with prometheus_client, and nothing at all without it."""

import importlib
import subprocess
import sys
from pathlib import Path

import prometheus_client
import pytest

from outhaul.amqp.outgoing import Outcome
from outhaul.deadletter import Reason
from outhaul.metrics import Metrics, reference_page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "metrics.md"


def test_what_is_counted_is_exposed() -> None:
    metrics = Metrics()
    metrics.published.inc(3, outcome="confirmed")
    metrics.outbox_rows.set(7, status="free")
    metrics.publish_confirm_seconds.observe(0.004)
    text = metrics.exposition()[0].decode()

    assert 'outhaul_messages_published_total{outcome="confirmed"} 3.0' in text
    assert 'outhaul_outbox_rows{status="free"} 7.0' in text
    assert 'outhaul_publish_confirm_seconds_bucket{le="0.005"} 1.0' in text
    assert "process_resident_memory_bytes" in text


def test_series_known_beforehand_start_at_zero_so_that_increase_sees_the_first() -> None:
    text = Metrics().exposition()[0].decode()

    assert 'outhaul_messages_published_total{outcome="unroutable"} 0.0' in text
    assert 'outhaul_inbox_consumed_total{result="dead_lettered"} 0.0' in text
    assert "outhaul_lease_lost_total 0.0" in text


def test_a_gauge_nobody_set_has_no_series() -> None:
    metrics = Metrics()
    assert "outhaul_consumer_active" not in metrics.exposition()[0].decode()
    assert "outhaul_broker_connected" not in metrics.exposition()[0].decode()
    metrics.consumer_active.set(0)
    assert "outhaul_consumer_active 0.0" in metrics.exposition()[0].decode()


def test_a_closed_breaker_leaves_no_series_behind() -> None:
    metrics = Metrics()
    metrics.breaker_open.set(1, exchange="e", routing_key="k")
    metrics.breaker_open.remove(exchange="e", routing_key="k")
    metrics.breaker_open.remove(exchange="e", routing_key="never open")

    assert "outhaul_breaker_open{" not in metrics.exposition()[0].decode()


def test_they_stand_beside_the_applications_own_in_a_registry_given() -> None:
    registry = prometheus_client.CollectorRegistry()
    metrics = Metrics(registry)
    metrics.sent.inc()

    assert registry.get_sample_value("outhaul_messages_sent_total") == 1.0


def test_without_prometheus_client_everything_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, package: str | None = None) -> object:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    count_to_nothing(Metrics())
    monkeypatch.undo()
    count_to_nothing(Metrics.off())


def count_to_nothing(metrics: Metrics) -> None:
    metrics.published.inc(outcome="confirmed")
    metrics.breaker_open.set(1, exchange="e", routing_key="k")
    metrics.breaker_open.remove(exchange="e", routing_key="k")
    metrics.handler_seconds.observe(1)
    assert metrics.exposition()[0].startswith(b"# install outhaul[metrics]")


def test_a_label_forgotten_is_an_error_and_not_another_series() -> None:
    with pytest.raises(KeyError, match="outcome"):
        Metrics().published.inc()


def test_the_values_of_labels_known_beforehand_are_those_in_use() -> None:
    metrics = Metrics.off()
    assert set(metrics.published.labels["outcome"]) == {outcome.value for outcome in Outcome}
    assert set(metrics.dead_letters.labels["reason"]) == {reason.value for reason in Reason}


def test_every_name_follows_prometheus_naming() -> None:
    for instrument in Metrics.off().instruments():
        assert instrument.name.startswith("outhaul_")
        assert instrument.name.endswith("_total") == (instrument.kind == "counter")


def test_importing_settings_metrics_and_logs_loads_none_of_the_heavy_parts() -> None:
    heavy = "{'prometheus_client', 'pika', 'psycopg', 'asyncio', 'http.client'}"
    modules = "sys, outhaul.configuration.environment, outhaul.metrics, outhaul.logs"
    code = f"import {modules}; print({heavy} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "set()"


def test_the_metrics_page_lists_what_there_is() -> None:
    assert reference_page() in PAGE.read_text(), "copy outhaul.metrics.reference_page() into it"

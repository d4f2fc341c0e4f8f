"""Prometheus alert rules for Outhaul, as package data: ``outhaul.rules.yml``.

They stand on two sources: what senders and consumers report of themselves, and what the broker reports of its queues,
because a process that is dead reports nothing. The broker must be scraped per queue (``/metrics/per-object``, or
``/metrics/detailed`` with the families queue_coarse_metrics and queue_consumer_count).
"""

from __future__ import annotations

from importlib import resources


def text() -> str:
    """The rules, to be written to where Prometheus reads its ``rule_files``."""
    return resources.files(__name__).joinpath("outhaul.rules.yml").read_text(encoding="utf-8")

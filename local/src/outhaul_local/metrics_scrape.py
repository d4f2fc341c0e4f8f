"""One counter read from a function's ``/metrics``."""

from __future__ import annotations

import httpx

from outhaul_local import ports

DUPLICATES = 'outhaul_inbox_consumed_total{result="duplicate"}'


def read_counter(port: int, series: str) -> float:
    """The counter's value; 0 when the function does not answer or never counted it."""
    try:
        answer = httpx.get(f"http://{ports.LOOPBACK}:{port}/metrics", timeout=2, trust_env=False)
    except httpx.HTTPError:
        return 0.0
    return counter_in(answer.text, series)


def counter_in(text: str, series: str) -> float:
    """The value of ``series`` in Prometheus's text format, 0 when it is not there."""
    for line in text.splitlines():
        if line.startswith(series):
            return float(line[len(series) :].split()[0])
    return 0.0

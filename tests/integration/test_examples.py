"""Every example runs as its README section says, against real servers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import BrokerUnderTest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(script: str, *arguments: str, environment: dict[str, str]) -> str:
    """One example from start to end, in a process of its own; its output."""
    ended = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ended.returncode == 0, f"{script} ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def number(output: str, label: str) -> int:
    """The figure behind a label in an example's table."""
    found = re.search(rf"{re.escape(label)}:? +([\d,]+)", output)
    assert found, f"{label!r} is not in:\n{output}"
    return int(found[1].replace(",", ""))


def injected_faults(output: str) -> int:
    """How many orders met a fault, by the example's own table: every line but the header and `none`."""
    lines = output.partition("fault injected")[2].partition("orders committed")[0].splitlines()[1:]
    counts = [int(line.split()[-2].replace(",", "")) for line in lines if line.strip()]
    return sum(counts[1:])


@pytest.fixture
def servers(postgres_url: str, broker: BrokerUnderTest) -> dict[str, str]:
    """What `. .outhaul/env` would set."""
    return {
        "OUTHAUL_ORDER_DATABASE_URL": postgres_url,
        "OUTHAUL_AMQP_URL": broker.amqp_url,
        "OUTHAUL_MANAGEMENT_URL": broker.management_url,
    }


def test_the_naive_way_leaves_a_waybill_without_an_order_for_every_fault(postgres_url: str) -> None:
    output = run("01_naive.py", "--orders", "300", environment={"OUTHAUL_ORDER_DATABASE_URL": postgres_url})
    assert injected_faults(output) >= 20
    assert number(output, "inconsistent") >= injected_faults(output)
    assert number(output, "waybills without an order") == number(output, "inconsistent")
    assert number(output, "orders without a waybill") == 0


def test_the_same_faults_leave_nothing_inconsistent_through_outhaul(servers: dict[str, str]) -> None:
    output = run("02_outhaul.py", "--orders", "300", environment=servers)
    assert injected_faults(output) >= 20
    assert number(output, "connections cut with their confirms") >= 5
    assert number(output, "inconsistent") == 0

"""Every example runs as its README section says, against real servers."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pika
import psycopg
import pytest

from outhaul_local.ports import free_port
from support import BrokerUnderTest, poll

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


@pytest.fixture
def places(servers: dict[str, str]) -> Iterator[dict[str, str]]:
    """What `eval "$(python examples/shop/scratch.py)"` sets."""
    printed = run("shop/scratch.py", environment=servers)
    exports = dict(shlex.split(line)[1].split("=", 1) for line in printed.splitlines())
    yield exports
    run("shop/scratch.py", "--drop", environment={**servers, **exports})


@contextmanager
def running(*command: str, environment: dict[str, str]) -> Iterator[None]:
    """A program in the background; ended in order, which it must do within ten seconds."""
    process = subprocess.Popen([sys.executable, *command], env={**os.environ, **environment})
    try:
        yield
        assert process.poll() is None, f"{command} has ended by itself"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
    assert process.returncode in {0, -signal.SIGTERM}


def test_an_order_to_the_fastapi_application_becomes_a_waybill_of_the_consumer(places: dict[str, str]) -> None:
    run("04_consumer.py", "--declare", environment=places)
    port = str(free_port())
    application = ("-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", port, "--log-level", "warning")
    with (
        running(*application, "03_fastapi:app", environment=places),
        running(str(EXAMPLES / "04_consumer.py"), environment=places),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as api,
        psycopg.connect(places["WAYBILL_DATABASE_URL"], autocommit=True) as waybills,
    ):
        poll(lambda: answers(api), seconds=30, what="the application")
        order_id = api.post("/orders", json={"customer": "Ada", "quantity": 23}).raise_for_status().json()["order_id"]
        found = poll(lambda: waybills.execute("SELECT order_id::text, parcels FROM waybills").fetchall(), seconds=30)
        assert found == [(order_id, 3)]
        poll(lambda: api.get(f"/orders/{order_id}").json()["message"] == "sent", what="the message marked sent")

        api.post("/orders", json={"customer": "Ada", "quantity": 501}).raise_for_status()
        letter = poll(lambda: dead_letter(places["AMQP_URL"]), what="the dead letter")
        assert letter["x-outhaul-reason"] == "rejected"
        assert letter["x-outhaul-error"] == "no van takes 501 pieces"
        assert api.post("/orders", json={"customer": "", "quantity": 1}).status_code == 422


def answers(api: httpx.Client) -> bool:
    try:
        return api.get("/healthz").is_success
    except httpx.TransportError:
        return False


def dead_letter(amqp_url: str) -> dict[str, Any]:
    """The headers of the letter at the head of the consumer's dead-letter queue; empty when there is none."""
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        _, properties, _ = connection.channel().basic_get("shop.waybill.dlq")
        return {} if properties is None else dict(properties.headers)


def test_a_rejected_waybill_cancels_the_order(servers: dict[str, str]) -> None:
    output = run("05_consume_and_produce.py", environment=servers)
    assert output.count(" shipped ") == 7
    assert [line.split()[0] for line in output.splitlines() if " cancelled " in line] == ["501", "700", "9999"]
    assert "as its cause: True" in output

"""Both functions against their own OpenAPI description: real processes, a real database, a broker that is there.

Without a fault there is no 5xx, and every answer is as the description says, to requests that fit it and to requests
that do not. See budget.py for how much is tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import schemathesis
from hypothesis import given
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import positive_data_acceptance

from conftest import MakeDatabase
from function_process import FunctionProcess, running
from fuzz.budget import examples
from outhaul.broker_admin.topology_apply import apply
from outhaul_waybill.topology import TOPOLOGY
from support import BrokerUnderTest, poll

# What JSON Schema cannot say and the function refuses all the same: to the schema 1.0 is an integer, and no schema sums
# up or compares with what came before.
UNSAYABLE = re.compile(r"expected `int`, got `float`|the sum of quantity|NUL|blank|with a new key")
Function = tuple[FunctionProcess, str]


@pytest.fixture
def order(make_database: MakeDatabase, broker: BrokerUnderTest, tmp_path: Path) -> Iterator[Function]:
    apply(TOPOLOGY, broker.amqp_url, broker.management_url)
    dsn = make_database(("order",))
    settings = {"OUTHAUL_ORDER_DATABASE_URL": dsn, "OUTHAUL_AMQP_URL": broker.amqp_url}
    with running("outhaul_order", tmp_path, settings) as process:
        process.wait_ready(seconds=60)
        yield process, dsn


@pytest.fixture
def waybill(make_database: MakeDatabase, broker: BrokerUnderTest, tmp_path: Path) -> Iterator[Function]:
    apply(TOPOLOGY, broker.amqp_url, broker.management_url)
    dsn = make_database(("waybill",))
    settings = {"OUTHAUL_WAYBILL_DATABASE_URL": dsn, "OUTHAUL_AMQP_URL": broker.amqp_url}
    with running("outhaul_waybill", tmp_path, settings) as process:
        process.wait_ready(seconds=60)
        yield process, dsn


def operations(process: FunctionProcess) -> Iterator[APIOperation[Any, Any, Any, Any]]:
    """What its own document describes."""
    schema = schemathesis.openapi.from_url(f"{process.http.base_url}/openapi.json")
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        yield found.ok()


def try_all(process: FunctionProcess, mode: GenerationMode) -> None:
    for operation in operations(process):
        if mode is GenerationMode.NEGATIVE and not list(operation.iter_parameters()):
            continue  # nothing in such a request can be wrong

        @examples()
        @given(case=operation.as_strategy(generation_mode=mode))
        def as_described(case: schemathesis.Case[Any]) -> None:
            answer = case.call_and_validate(excluded_checks=[positive_data_acceptance])
            if mode is GenerationMode.POSITIVE and answer.status_code == 422:
                assert UNSAYABLE.search(answer.json()["detail"]), answer.text

        as_described()
    assert process.process.poll() is None
    assert "Traceback" not in process.log.read_text()


MODES = pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)


@MODES
def test_the_order_function_answers_as_its_description_says(mode: GenerationMode, order: Function) -> None:
    process, dsn = order
    try_all(process, mode)
    with psycopg.connect(dsn, autocommit=True) as conn:
        # What was taken is sent, whatever was in it.
        poll(lambda: not conn.execute("SELECT 1 FROM outbox LIMIT 1").fetchall(), seconds=60, what="an empty outbox")


@MODES
def test_the_waybill_function_answers_as_its_description_says(mode: GenerationMode, waybill: Function) -> None:
    try_all(waybill[0], mode)

"""The page on the HTTP API names every problem, and the OpenAPI documents describe what is answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from outhaul.hosting import problems as common
from outhaul.hosting.problems import Kind
from outhaul_order import openapi as order_openapi
from outhaul_order import problems as order_problems
from outhaul_waybill import openapi as waybill_openapi
from outhaul_waybill import problems as waybill_problems

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "http-api.md"
KINDS = [
    kind
    for module in (common, order_problems, waybill_problems)
    for kind in vars(module).values()
    if isinstance(kind, Kind)
]
DOCUMENTS = {"order": order_openapi.document("1.2.3"), "waybill": waybill_openapi.document("1.2.3")}


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        here = {node["$ref"]} if "$ref" in node else set()
        return here.union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.slug)
def test_every_problem_stands_on_the_page(kind: Kind) -> None:
    [row] = [line for line in PAGE.read_text().splitlines() if line.startswith("|") and f"`{kind.slug}`" in line][-1:]
    assert f"| {kind.status} |" in row


def test_every_problem_of_placing_an_order_stands_in_the_document() -> None:
    responses = DOCUMENTS["order"]["paths"]["/orders"]["post"]["responses"]
    told = " ".join(response["description"] for response in responses.values())
    elsewhere = {order_problems.UNKNOWN_ORDER, order_problems.CANNOT_READ}
    for kind in vars(order_problems).values():
        if isinstance(kind, Kind) and kind not in elsewhere:
            assert kind.uri in told
    assert "Retry-After" in responses["503"]["headers"]
    assert "Retry-After" in responses["409"]["headers"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_document_refers_to_nothing_that_is_not_there(name: str) -> None:
    document = DOCUMENTS[name]
    assert document["openapi"].startswith("3.1")
    assert document["info"]["version"] == "1.2.3"
    present = {f"#/components/schemas/{schema}" for schema in document["components"]["schemas"]}
    assert references(document) <= present
    operations = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(operations)) == len(operations)


def test_the_bounds_of_an_order_are_told() -> None:
    line = DOCUMENTS["order"]["components"]["schemas"]["Line"]
    assert line["additionalProperties"] is False
    assert line["properties"]["quantity"] == {"type": "integer", "minimum": 1, "maximum": 1_000_000}
    assert set(line["required"]) == {"sku", "quantity", "unit_price_cents"}

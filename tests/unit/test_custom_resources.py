"""The definitions of the custom resources agree with the operator that reads them, and with their reference page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from outhaul.errors import ConfigurationError
from outhaul_operator import reference
from outhaul_operator.specs import GROUP, VERSION, InboxSpec, OutboxSpec, RedriveSpec, ResendSpec

ROOT = Path(__file__).parents[2]
CRDS = ROOT / "helm" / "outhaul" / "files" / "crds"
PAGE = ROOT / "docs" / "reference" / "custom-resources.md"
Body = dict[str, Any]
SPECS: Mapping[str, Any] = {
    "outboxes": OutboxSpec,
    "inboxes": InboxSpec,
    "resends": ResendSpec,
    "redrives": RedriveSpec,
}
REFS = {"databaseSecretRef": {"name": "a"}, "brokerSecretRef": {"name": "b"}, "topologyRef": {"name": "c"}}
LEAST: Mapping[str, Body] = {
    "outboxes": REFS,
    "inboxes": {**REFS, "consumer": "shipping", "queue": "shop.waybill"},
    "resends": {"outboxRef": {"name": "shop"}, "parked": True},
    "redrives": {"inboxRef": {"name": "shipping"}},
}


def definition(plural: str) -> Body:
    found: Body = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())
    return found


def schema(plural: str) -> Body:
    [version] = definition(plural)["spec"]["versions"]
    found: Body = version["schema"]["openAPIV3Schema"]
    return found


def defaulted(field: Mapping[str, Any], value: Any) -> Any:
    """The value as the API server stores it."""
    if field.get("type") != "object" or not isinstance(value, dict):
        return value
    filled = dict(value)
    for name, inner in field.get("properties", {}).items():
        if name not in filled and "default" in inner:
            filled[name] = inner["default"]
        if name in filled:
            filled[name] = defaulted(inner, filled[name])
    return filled


def fields(field: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every field below, by its path."""
    for name, inner in field.get("properties", {}).items():
        here = f"{path}.{name}".lstrip(".")
        yield here, inner
        yield from fields(inner, here)
        if inner.get("type") == "array":
            yield f"{here}[]", inner["items"]
            yield from fields(inner["items"], f"{here}[]")


def with_value(spec: Body, path: str, value: object) -> Body:
    """A copy of the spec with one field set."""
    head, _, rest = path.partition(".")
    return {**spec, head: with_value(spec.get(head, {}), rest, value) if rest else value}


@pytest.mark.parametrize("plural", SPECS)
def test_what_the_api_server_fills_in_is_what_the_operator_takes_for_granted(plural: str) -> None:
    spec = LEAST[plural]
    stored = defaulted(schema(plural)["properties"]["spec"], spec)
    assert SPECS[plural].from_body({"spec": stored}) == SPECS[plural].from_body({"spec": spec})


@pytest.mark.parametrize("plural", SPECS)
def test_the_operator_reads_every_number_that_the_api_server_lets_in_and_no_more(plural: str) -> None:
    for path, field in fields(schema(plural)["properties"]["spec"]):
        if field.get("type") == "integer":
            for good in (field["minimum"], field["maximum"]):
                SPECS[plural].from_body({"spec": with_value(LEAST[plural], path, good)})
            for bad in (field["minimum"] - 1, field["maximum"] + 1):
                with pytest.raises(ConfigurationError, match=path.rpartition(".")[2]):
                    SPECS[plural].from_body({"spec": with_value(LEAST[plural], path, bad)})


def test_the_operator_reads_every_field_there_is() -> None:
    """A field of the definitions that nobody reads would be a promise that nobody keeps."""
    source = (ROOT / "operator" / "src" / "outhaul_operator" / "specs.py").read_text()
    for plural in SPECS:
        for path, field in fields(schema(plural)["properties"]["spec"]):
            if not path.endswith("[]"):
                assert f'"{path.rpartition(".")[2]}"' in source, (plural, path, field["type"])


@pytest.mark.parametrize("plural", SPECS)
def test_the_definitions_teach_and_are_bounded(plural: str) -> None:
    for path, field in fields(schema(plural)["properties"]["spec"]):
        if not path.endswith("[]"):
            assert field["description"].endswith("."), path
        for rule in field.get("x-kubernetes-validations", ()):
            assert rule["message"], path
        if field["type"] == "array":
            assert field["maxItems"] <= 1000, path
        if field["type"] == "string":
            assert field.get("maxLength") or field.get("format") == "date-time", path
    for path, field in fields(schema(plural)["properties"]["status"]):
        if not path.endswith("[]"):
            assert field["description"].endswith("."), path


@pytest.mark.parametrize(
    ("plural", "short", "columns"),
    [
        ("outboxes", "obx", ["Ready", "Pending", "Stuck", "Parked", "Oldest", "Reason", "Age"]),
        ("inboxes", "ibx", ["Ready", "Depth", "In Retry", "Dead Letters", "Consumers", "Reason", "Age"]),
        ("resends", "rsnd", ["Phase", "Progress", "Age"]),
        ("redrives", "rdrv", ["Phase", "Progress", "Dry Run", "Age"]),
    ],
)
def test_names_and_columns_are_those_that_people_rely_on(plural: str, short: str, columns: list[str]) -> None:
    spec = definition(plural)["spec"]
    [version] = spec["versions"]
    assert (spec["group"], version["name"]) == (GROUP, VERSION)
    assert (spec["names"]["shortNames"], spec["names"]["categories"]) == ([short], ["outhaul"])
    assert [column["name"] for column in version["additionalPrinterColumns"]] == columns
    assert version["subresources"] == {"status": {}}
    known = {f".status.{path}" for path, _ in fields(schema(plural)["properties"]["status"])}
    known |= {f".spec.{path}" for path, _ in fields(schema(plural)["properties"]["spec"])}
    for column in version["additionalPrinterColumns"]:
        path = column["jsonPath"]
        assert path in known or path.startswith((".status.conditions[?", ".metadata.")), path


@pytest.mark.parametrize("plural", ["resends", "redrives"])
def test_a_decision_cannot_be_changed_once_it_is_made(plural: str) -> None:
    rules = schema(plural)["properties"]["spec"]["x-kubernetes-validations"]
    assert "self == oldSelf" in [rule["rule"] for rule in rules]


def test_the_reference_page_is_that_of_these_definitions() -> None:
    assert PAGE.read_text() == reference.page(CRDS), (
        "run: python -m outhaul_operator.reference helm/outhaul/files/crds > docs/reference/custom-resources.md"
    )

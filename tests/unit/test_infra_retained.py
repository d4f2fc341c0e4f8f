"""What `destroy` leaves behind, what the next stack takes up again, and that nothing else is ever taken from others."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from chart_support import CHART, helm
from infra_graph import Graph, graph_of, settings
from infra_modes import EVERY, OPERATORS, TLS

# By its mode: what the data would go with, or could not be used without.
OF_ANY = {"namespace-data"}
OF_OPERATORS = {
    "rabbitmqcluster-outhaul-rabbitmq",
    "secret-outhaul-rabbitmq-users",
    "cluster-outhaul-postgres",
    "database-outhaul-postgres-order",
    "database-outhaul-postgres-waybill",
    *(
        f"secret-outhaul-postgres-{function}{kind}"
        for function in ("order", "waybill")
        for kind in ("", "-owner", "-operator")
    ),
}
CERTIFICATES = {"certificate-outhaul-rabbitmq-tls", "certificate-outhaul-postgres-tls"}


def retained(made: Graph) -> set[str]:
    """Logical names of what stays."""
    return {each.name for each in made.resources if each.retain_on_delete}


@pytest.mark.parametrize(
    ("written", "stays"),
    [
        ({}, OF_ANY),
        (TLS, OF_ANY),
        (OPERATORS, OF_ANY | OF_OPERATORS),
        (OPERATORS | TLS, OF_ANY | OF_OPERATORS | CERTIFICATES),
    ],
    ids=["statefulset", "statefulset, TLS", "operators", "operators, TLS"],
)
def test_what_the_data_would_go_with_stays_exactly_where_it_is_asked_to(
    written: dict[str, Any], stays: set[str]
) -> None:
    assert retained(graph_of(settings(**written))) == stays
    assert retained(graph_of(settings(**written, retainData=False))) == set()
    guarded = {each.name for each in graph_of(settings(**written, protect=True)).resources if each.protect}
    assert guarded >= stays


@pytest.mark.parametrize("name", EVERY)
def test_only_what_may_have_been_left_is_taken_up_where_it_exists(name: str) -> None:
    """An object that another stack made is refused, instead of being changed now and removed in the end."""
    made = graph_of(settings(**EVERY[name]))
    finding = {each.name for each in made.resources if each.type == "pulumi:providers:kubernetes"}
    assert finding == {"kubernetes", "kubernetes-finding"}
    assert made.resource("kubernetes").inputs["upsertExistingObjects"] == "false"
    assert made.resource("kubernetes-finding").inputs["upsertExistingObjects"] == "true"
    found_again = {each.name for each in made.resources if each.is_object and "::kubernetes-finding::" in each.provider}
    retainable = retained(graph_of(settings(**EVERY[name] | {"retainData": True})))
    assert found_again == retainable


def test_whoever_finds_the_functions_namespace_taken_does_not_come_to_the_data() -> None:
    made = graph_of(settings())
    assert made.resource("namespace-app").urn in made.resource("namespace-data").depends_on


@pytest.mark.needs("helm")
@pytest.mark.parametrize("keep", [True, False])
def test_the_definitions_are_marked_to_stay_exactly_where_they_are_asked_to(keep: bool) -> None:
    """By the annotation that helm and the provider's Chart go by."""
    values = graph_of(settings(chart={"keepCrds": keep})).resource("outhaul").inputs["values"]
    text = helm("template", "outhaul", str(CHART), "--values=-", stdin=yaml.safe_dump(values))
    made = [each for each in yaml.safe_load_all(text) if each and each["kind"] == "CustomResourceDefinition"]
    assert len(made) == 4
    marks = {each["metadata"].get("annotations", {}).get("helm.sh/resource-policy") for each in made}
    assert marks == ({"keep"} if keep else {None})

"""The Jobs that the chart makes: what they do, and what runs them again."""

from __future__ import annotations

import pytest

from chart_support import MATRIX, TLS, Document, containers, environment, nested, of_kind, render

pytestmark = pytest.mark.needs("helm")


def test_a_job_of_the_same_name_is_the_same_job() -> None:
    """A Job cannot be changed: an upgrade that tried would fail."""
    seen: dict[str, Document] = {}
    for values in MATRIX.values():
        for name, job in of_kind(render(values), "Job").items():
            assert seen.setdefault(name, job["spec"]["template"]["spec"]) == job["spec"]["template"]["spec"]
    assert len(seen) > 6


def test_a_job_is_run_again_for_what_it_does_and_not_for_what_is_beside_it() -> None:
    names = set(of_kind(render(), "Job"))
    assert set(of_kind(render({"functions": {"order": {"replicas": 5}}, "podAnnotations": {"a": "b"}}), "Job")) == names
    newer = set(of_kind(render({"images": {"order": {"tag": "2"}}}), "Job"))
    assert {name.rpartition("-")[0] for name in newer - names} == {"outhaul-schema-order"}
    more = set(of_kind(render({"topology": {"nodes": 3}}), "Job"))
    assert {name.rpartition("-")[0] for name in more - names} == {"outhaul-topology"}


@pytest.mark.parametrize(
    ("values", "again"),
    [
        (nested("schema.rerun", "2026-11-23"), {"outhaul-schema-order", "outhaul-schema-waybill"}),
        (nested("topology.rerun", "again"), {"outhaul-topology"}),
        (
            {"podAnnotations": {"outhaul.dev/credentials": "c0ffee"}},
            {"outhaul-schema-order", "outhaul-schema-waybill", "outhaul-topology"},
        ),
    ],
)
def test_a_job_is_run_again_when_it_is_told_to_or_credentials_changed(values: Document, again: set[str]) -> None:
    newer = set(of_kind(render(values), "Job")) - set(of_kind(render(), "Job"))
    assert {name.rpartition("-")[0] for name in newer} == again


def test_pulumi_makes_a_job_that_failed_anew() -> None:
    """It renders the chart without asking the cluster which Jobs failed, so its provider is told."""
    for job in of_kind(render(), "Job").values():
        assert job["metadata"]["annotations"] == {"pulumi.com/replaceUnready": "true"}


@pytest.mark.parametrize("values", [{}, {"fullnameOverride": "b" * 36}])
def test_names_leave_room_for_what_is_made_of_them(values: Document) -> None:
    """A Job's name is a label of its pods, 63 characters at most; a CronJob's has 52, a number is put to it."""
    documents = render(values, release="a" * 53)
    assert all(len(f"{name}-99") <= 63 for name in of_kind(documents, "Job"))
    assert all(len(name) <= 52 for name in of_kind(documents, "CronJob"))


def test_the_cron_job_does_what_the_topology_job_does() -> None:
    documents = render({"tls": TLS})
    [job] = [each for name, each in of_kind(documents, "Job").items() if name.startswith("outhaul-topology")]
    cron = of_kind(documents, "CronJob")["outhaul-topology"]["spec"]
    assert cron["jobTemplate"]["spec"]["template"]["spec"] == job["spec"]["template"]["spec"]
    assert cron["concurrencyPolicy"] == "Forbid"
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["args"][:2] == ["topology", "apply"]
    assert environment(container)["OUTHAUL_MANAGEMENT_URL"] == "topology-broker/management-url"


def test_the_schema_is_applied_by_the_owner_and_then_granted() -> None:
    [job] = [each for name, each in of_kind(render(), "Job").items() if name.startswith("outhaul-schema-order")]
    steps = containers(job["spec"]["template"]["spec"])
    assert [" ".join(step["args"]) for step in steps] == [
        "schema apply --component order",
        "schema grant --component order --role outhaul_order --as function",
        "schema grant --component order --role outhaul_operator --as operator",
    ]
    assert {environment(step)["OUTHAUL_ORDER_DATABASE_URL"] for step in steps} == {"order-database-owner/url"}
    assert {step["image"] for step in steps} == {"outhaul/order:0.1.0"}

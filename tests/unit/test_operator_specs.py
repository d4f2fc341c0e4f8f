"""What is read from a custom resource: the same defaults and bounds as the resource definitions say."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml

from outhaul.errors import ConfigurationError
from outhaul.tools.letters import Filter
from outhaul_operator.outcomes import HOPELESS, RunReport
from outhaul_operator.requests import RedriveRun, ResendRun
from outhaul_operator.specs import (
    BrokerRef,
    InboxSpec,
    OutboxSpec,
    RedriveSpec,
    ResendPolicy,
    ResendSpec,
    SecretRef,
    Target,
    TopologyRef,
)

CRDS = Path(__file__).parents[2] / "helm" / "outhaul" / "files" / "crds"
REFS = {"databaseSecretRef": {"name": "db"}, "brokerSecretRef": {"name": "mq"}}
ID = "0193a1b2-7c4d-7e10-9f00-0123456789ab"
SPECS: dict[str, Any] = {"outboxes": OutboxSpec, "inboxes": InboxSpec, "resends": ResendSpec, "redrives": RedriveSpec}
LEAST: dict[str, dict[str, Any]] = {
    "outboxes": REFS,
    "inboxes": {**REFS, "consumer": "waybill", "queue": "shop.waybill"},
    "resends": {"outboxRef": {"name": "orders"}, "parked": True},
    "redrives": {"inboxRef": {"name": "waybill"}},
}


def read(kind: str, spec: Mapping[str, Any]) -> Any:
    return SPECS[kind].from_body({"spec": spec})


def schema(kind: str) -> dict[str, Any]:
    """Of the resource's spec, as the API server gets it."""
    definition = yaml.safe_load((CRDS / f"{kind}.yaml").read_text())
    [version] = definition["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def defaulted(schema: Mapping[str, Any], value: Any) -> Any:
    """As the API server fills defaults in."""
    if not isinstance(value, dict):
        return value
    filled = dict(value)
    for name, field in schema.get("properties", {}).items():
        if name not in filled and "default" in field:
            filled[name] = field["default"]
        if name in filled:
            filled[name] = defaulted(field, filled[name])
    return filled


@pytest.mark.parametrize("kind", SPECS)
def test_defaults_are_those_of_the_resource_definition(kind: str) -> None:
    assert read(kind, defaulted(schema(kind), LEAST[kind])) == read(kind, LEAST[kind])


def numbers(schema: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], int, int]]:
    found = []
    for name, field in schema.get("properties", {}).items():
        if field.get("type") == "integer":
            found.append(((*path, name), field["minimum"], field["maximum"]))
        found += numbers(field, (*path, name))
    return found


@pytest.mark.parametrize("kind", SPECS)
def test_whole_numbers_have_the_bounds_of_the_resource_definition(kind: str) -> None:
    for path, least, most in numbers(schema(kind)):
        for value in (least, most):
            read(kind, nested(LEAST[kind], path, value))
        for value in (least - 1, most + 1):
            with pytest.raises(ConfigurationError) as refused:
                read(kind, nested(LEAST[kind], path, value))
            assert refused.value.setting == ".".join(("spec", *path))


def test_the_operator_knows_every_field_of_the_resource_definitions() -> None:
    assert read("outboxes", whole("outboxes")) == OutboxSpec(
        database=SecretRef(name="n", key="k"),
        broker=BrokerRef(name="n", key="k", management_key="m"),
        topology=TopologyRef(name="n", key="k"),
        stuck_after_seconds=600,
        interval_seconds=60,
        resend=ResendPolicy(enabled=False, batch_size=7, max_parallel_jobs=7, max_attempts=7),
        sent_days=7,
        alert_oldest_age_seconds=600,
        alert_parked=7,
    )
    assert read("inboxes", whole("inboxes")) == InboxSpec(
        database=SecretRef(name="n", key="k"),
        broker=BrokerRef(name="n", key="k", management_key="m"),
        topology=TopologyRef(name="n", key="k"),
        consumer="c",
        queue="q",
        interval_seconds=60,
        alert_dead_letters=7,
        alert_no_consumer_seconds=600,
    )
    redrive = {name: value for name, value in whole("redrives").items() if name != "discard"}
    assert read("redrives", redrive) == RedriveSpec(
        inbox="n",
        filter=Filter(
            reasons=("x",),
            types=("x",),
            ids=(ID,),
            subjects=("x",),
            older_than_seconds=60,
            younger_than_seconds=600,
        ),
        limit=7,
        rate_per_second=7,
        dry_run=True,
        force=True,
    )
    assert read("redrives", {**LEAST["redrives"], "discard": {"reason": "why"}}).discard_reason == "why"


GIVEN: dict[str, Any] = {
    "name": "n",
    "key": "k",
    "managementKey": "m",
    "consumer": "c",
    "queue": "q",
    "interval": "60s",
    "stuckAfter": "10m",
    "oldestAge": "10m",
    "noConsumer": "10m",
    "newerThan": "10m",
    "olderThan": "1m",
    "enabled": False,
    "dryRun": True,
    "force": True,
    "reasons": ["x"],
    "types": ["x"],
    "subjects": ["x"],
    "messageIds": [ID.upper()],
    "reason": "why",
}


def whole(kind: str) -> dict[str, Any]:
    """Every field of the definition, none at its default: one that the operator does not read would go unseen."""

    def fill(schema: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: fill(field) if field["type"] == "object" else 7 if field["type"] == "integer" else GIVEN[name]
            for name, field in schema["properties"].items()
        }

    return fill(schema(kind))


def nested(spec: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    first, *rest = path
    below = spec.get(first, {})
    return {**spec, first: nested(below, tuple(rest), value) if rest else value}


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("outboxes", "databaseSecretRef", None),
        ("outboxes", "databaseSecretRef", "db"),
        ("outboxes", "databaseSecretRef.name", ""),
        ("outboxes", "databaseSecretRef.name", 5),
        ("outboxes", "brokerSecretRef.key", ""),
        ("outboxes", "topologyRef.name", None),
        ("outboxes", "stuckAfter", "59s"),
        ("outboxes", "stuckAfter", "soon"),
        ("outboxes", "stuckAfter", 120),
        ("outboxes", "interval", "4s"),
        ("outboxes", "interval", "2h"),
        ("outboxes", "resend", []),
        ("outboxes", "resend.enabled", "yes"),
        ("outboxes", "resend.batchSize", True),
        ("outboxes", "alerts.oldestAge", "0s"),
        ("inboxes", "queue", "q" * 232),
        ("inboxes", "consumer", ["waybill"]),
        ("resends", "outboxRef", None),
        ("resends", "messageIds", ["not-an-id"]),
        ("resends", "messageIds", [ID] * 1001),
        ("resends", "messageIds", ID),
        ("resends", "messageIds", [7]),
        ("redrives", "filter.reasons", [""]),
        ("redrives", "filter.reasons", "malformed"),
        ("redrives", "filter.olderThan", "7"),
        ("redrives", "discard.reason", "  "),
        ("redrives", "discard.reason", "x" * 501),
        ("redrives", "dryRun", "true"),
    ],
)
def test_a_wrong_field_is_refused_by_its_path(kind: str, path: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read(kind, nested(LEAST[kind], tuple(path.split(".")), value))
    assert refused.value.setting.startswith(f"spec.{path.split('.', maxsplit=1)[0]}")
    assert refused.value.remedy


@pytest.mark.parametrize(
    "choices",
    [
        {"parked": False},
        {"parked": True, "messageIds": [ID]},
        {"parked": True, "createdBetween": {"from": "2026-01-31T10:00:00Z", "to": "2026-01-31T11:00:00Z"}},
    ],
)
def test_a_resend_chooses_exactly_one_kind_of_rows(choices: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="exactly one"):
        read("resends", {"outboxRef": {"name": "orders"}, **choices})


@pytest.mark.parametrize(
    ("start", "end"),
    [("2026-01-31T11:00:00Z", "2026-01-31T11:00:00Z"), ("2026-01-31T10:00:00", "2026-01-31T11:00:00Z"), ("x", "y")],
)
def test_a_span_without_a_length_or_a_time_zone_is_refused(start: str, end: str) -> None:
    with pytest.raises(ConfigurationError, match=r"spec\.createdBetween\."):
        read("resends", {"outboxRef": {"name": "orders"}, "createdBetween": {"from": start, "to": end}})


def test_a_span_is_read_with_its_time_zones() -> None:
    span = {"from": "2026-01-31T10:00:00Z", "to": "2026-01-31T12:30:00.5+01:00"}
    spec = read("resends", {"outboxRef": {"name": "orders"}, "createdBetween": span})
    assert spec.created_between == (
        datetime(2026, 1, 31, 10, tzinfo=UTC),
        datetime(2026, 1, 31, 11, 30, 0, 500_000, tzinfo=UTC),
    )


def test_ages_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"spec\.filter\.olderThan"):
        read("redrives", {"inboxRef": {"name": "i"}, "filter": {"olderThan": "2h", "newerThan": "1h"}})


def test_an_object_that_is_being_deleted_is_known_as_such() -> None:
    meta = {"namespace": "shop", "name": "orders", "uid": "u", "generation": 3, "resourceVersion": "9"}
    body = {"kind": "Outbox", "metadata": meta}
    found = Target.from_body(body)
    assert (found.generation, found.resource_version, found.deleting) == (3, "9", False)
    assert str(found) == "Outbox shop/orders"
    deleted = Target.from_body({"kind": "Outbox", "metadata": {**meta, "deletionTimestamp": "2026-01-31T10:00:00Z"}})
    assert deleted.deleting


@pytest.mark.parametrize(
    "run",
    [
        ResendRun(limit=1000, max_attempts=5),
        ResendRun(message_ids=(UUID(ID),)),
        ResendRun(created_between=(datetime(2026, 1, 31, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))),
        ResendRun(parked=True),
    ],
)
def test_a_resends_request_arrives_as_it_was_written(run: ResendRun) -> None:
    assert ResendRun.from_document(json.loads(json.dumps(run.document()))) == run


@pytest.mark.parametrize(
    "run",
    [
        RedriveRun(queue="q", consumer="c"),
        RedriveRun(
            queue="q",
            consumer="c",
            filter=Filter(reasons=("b", "a"), ids=(ID,), older_than_seconds=5.0),
            dry_run=True,
            discard_reason="$(PATH) 'quoted'",
            force=True,
        ),
    ],
)
def test_a_redrives_request_arrives_as_it_was_written(run: RedriveRun) -> None:
    arrived = RedriveRun.from_document(json.loads(json.dumps(run.document())))
    assert arrived.document() == run.document()


@pytest.mark.parametrize("document", [{}, {"max_attempts": "x"}, {"max_attempts": 1, "message_ids": ["x"]}, []])
def test_a_request_that_makes_no_sense_is_refused_by_the_variable_it_came_in(document: Any) -> None:
    with pytest.raises(ConfigurationError, match="OUTHAUL_RUN_REQUEST"):
        ResendRun.from_document(document)


def test_a_report_arrives_as_it_was_written_and_anything_else_is_none() -> None:
    report = RunReport(reason="NotTaken", message="no queue is bound", counts={"sent": 3}, done_before=True)
    assert RunReport.from_document(json.loads(json.dumps(report.document()))) == report
    nonsenses: tuple[object, ...] = (None, "OOMKilled", [], {"counts": 3})
    for nonsense in nonsenses:
        assert RunReport.from_document(nonsense) is None


@pytest.mark.parametrize("reason", ["x" * 2000, "two words", 3, None])
def test_a_reason_that_no_condition_takes_is_left_out(reason: object) -> None:
    report = RunReport.from_document({"reason": reason, "message": "m", "counts": {}})
    assert report is not None
    assert (report.reason, report.message) == ("", "m")


def test_a_long_report_is_cut_to_what_a_termination_message_holds() -> None:
    assert len(json.dumps(RunReport(message="x" * 9000, counts={"sent": 1}).document()).encode()) < 4096


def test_hopeless_exit_codes_are_those_of_the_jobs_failure_policy() -> None:
    assert list(HOPELESS) == [64, 65, 66, 67, 68, 69]

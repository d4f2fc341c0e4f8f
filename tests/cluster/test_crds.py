"""The definitions on a real API server: it refuses each wrong field in words that say what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cluster.custom_resources import FIELDS, GOOD, MISSING, Body, body, refused, tried, with_value
from cluster.kube import Kube

EXAMPLES = Path(__file__).parents[2] / "examples" / "custom-resources"
SECRET_NAME = "must be the name of a Secret in this namespace"
ENTRY = "must be the name of an entry in the Secret"
CONFIG_MAP_NAME = "must be the name of a ConfigMap in this namespace"
CONFIG_MAP_ENTRY = "must be the name of an entry in the ConfigMap"
DURATION = "must be a duration from 1s to 366d with its unit, such as"

pytestmark = pytest.mark.usefixtures("crds")


REFUSED = [
    # References
    ("Outbox", "databaseSecretRef", MISSING, "spec.databaseSecretRef: Required value"),
    ("Outbox", "brokerSecretRef", MISSING, "spec.brokerSecretRef: Required value"),
    ("Outbox", "databaseSecretRef", {}, "spec.databaseSecretRef.name: Required value"),
    ("Outbox", "databaseSecretRef.name", "", SECRET_NAME),
    ("Outbox", "databaseSecretRef.name", "Shop_Database", SECRET_NAME),
    ("Outbox", "databaseSecretRef.name", "other/shop", SECRET_NAME),
    ("Outbox", "databaseSecretRef.name", "a" * 254, "253"),
    ("Outbox", "databaseSecretRef.namespace", "other", 'unknown field "spec.databaseSecretRef.namespace"'),
    ("Outbox", "databaseSecretRef.key", "", ENTRY),
    ("Outbox", "brokerSecretRef.name", "shop broker", SECRET_NAME),
    ("Outbox", "brokerSecretRef.key", "../url", ENTRY),
    ("Outbox", "brokerSecretRef.managementKey", "a b", ENTRY),
    ("Outbox", "topologyRef", {}, "spec.topologyRef.name: Required value"),
    ("Outbox", "topologyRef.name", "A", CONFIG_MAP_NAME),
    ("Outbox", "topologyRef", {"name": "a", "key": "$"}, CONFIG_MAP_ENTRY),
    ("Inbox", "databaseSecretRef", MISSING, "spec.databaseSecretRef: Required value"),
    ("Inbox", "databaseSecretRef.name", "Shop", SECRET_NAME),
    ("Inbox", "databaseSecretRef.key", "", ENTRY),
    ("Inbox", "brokerSecretRef", MISSING, "spec.brokerSecretRef: Required value"),
    ("Inbox", "brokerSecretRef.name", "other/shop", SECRET_NAME),
    ("Inbox", "brokerSecretRef.key", "../url", ENTRY),
    ("Inbox", "brokerSecretRef.managementKey", "a b", ENTRY),
    ("Inbox", "topologyRef.name", "A", CONFIG_MAP_NAME),
    ("Inbox", "topologyRef", {"name": "a", "key": "$"}, CONFIG_MAP_ENTRY),
    # Outbox
    ("Outbox", "stuckAfter", "30s", "from 60s to 366d"),
    ("Outbox", "stuckAfter", "2", "from 60s to 366d"),
    ("Outbox", "stuckAfter", "-5m", "may be in that sender's hands"),
    ("Outbox", "stuckAfter", "1.5h", "such as 2m, 1h30m or 1d"),
    ("Outbox", "stuckAfter", 120, "string"),
    ("Outbox", "stuckAfter", "400d", "from 60s to 366d"),
    ("Outbox", "stuckAfter", "99999h", "from 60s to 366d"),
    ("Outbox", "interval", "1s", "must be a duration from 5s to 1h"),
    ("Outbox", "interval", "2h", "must be a duration from 5s to 1h"),
    ("Outbox", "interval", "soon", "such as 30s or 5m"),
    ("Outbox", "resend.enabled", "yes", "boolean"),
    ("Outbox", "resend.batchSize", 0, "should be greater than or equal to 1"),
    ("Outbox", "resend.batchSize", 100_001, "should be less than or equal to 100000"),
    ("Outbox", "resend.maxParallelJobs", 11, "should be less than or equal to 10"),
    ("Outbox", "resend.maxAttempts", 0, "should be greater than or equal to 1"),
    ("Outbox", "resend.maxAtempts", 3, 'unknown field "spec.resend.maxAtempts"'),
    ("Outbox", "retention.sentDays", 0, "should be greater than or equal to 1"),
    ("Outbox", "retention.sentDays", 1.5, "integer"),
    ("Outbox", "alerts.oldestAge", "0s", DURATION),
    ("Outbox", "alerts.oldestAge", "5 minutes", DURATION),
    ("Outbox", "alerts.parked", 0, "should be greater than or equal to 1"),
    ("Outbox", "image", "evil", 'unknown field "spec.image"'),
    # Inbox
    ("Inbox", "consumer", MISSING, "spec.consumer: Required value"),
    ("Inbox", "consumer", "", "must be the consumer's name as its code gives it"),
    ("Inbox", "consumer", "a\nb", "must be the consumer's name as its code gives it"),
    ("Inbox", "consumer", "a" * 101, "100"),
    ("Inbox", "queue", MISSING, "spec.queue: Required value"),
    ("Inbox", "queue", "", "must be the consumer's own queue"),
    ("Inbox", "queue", "amq.gen-1", "does not begin with amq."),
    ("Inbox", "queue", "shop.waybill.dlq", "not its dead-letter queue"),
    ("Inbox", "interval", "4s", "must be a duration from 5s to 1h"),
    ("Inbox", "alerts.deadLetters", 0, "should be greater than or equal to 1"),
    ("Inbox", "alerts.noConsumer", "0d", DURATION),
    # Resend
    ("Resend", "outboxRef", MISSING, "spec.outboxRef: Required value"),
    ("Resend", "outboxRef.name", "Shop", "must be the name of an Outbox in this namespace"),
    ("Resend", "parked", MISSING, "choose exactly one of messageIds, createdBetween and parked: true"),
    ("Resend", "parked", False, "is true or left out"),
    ("Resend", "messageIds", ["0193a1b2-7c4d-7e10-9f00-0123456789ab"], "choose exactly one of"),
    ("Resend", "createdBetween", {"from": "now", "to": "2026-01-31T10:00:00Z"}, "must be of type date-time"),
    # Redrive
    ("Redrive", "force", "always", "boolean"),
    ("Redrive", "inboxRef", MISSING, "spec.inboxRef: Required value"),
    ("Redrive", "inboxRef.name", "-", "must be the name of an Inbox in this namespace"),
    ("Redrive", "filter.reasons", [""], "should be at least 1 chars long"),
    ("Redrive", "filter.reasons", ["a", "a"], "Duplicate value"),
    ("Redrive", "filter.types", ["a" * 256], "255"),
    ("Redrive", "filter.messageIds", [""], "should be at least 1 chars long"),
    ("Redrive", "filter.subjects", ["a"] * 1001, "1000"),
    ("Redrive", "filter.olderThan", "yesterday", DURATION),
    ("Redrive", "filter.newerThan", "367d", DURATION),
    ("Redrive", "filter", {"olderThan": "2h", "newerThan": "1h"}, "make olderThan the shorter one"),
    ("Redrive", "filter", {"olderThan": "8d", "newerThan": "7d"}, "make olderThan the shorter one"),
    ("Redrive", "filter", {"olderThan": "100h", "newerThan": "1d"}, "make olderThan the shorter one"),
    ("Redrive", "filter", {"olderThan": "2d", "newerThan": "48h"}, "make olderThan the shorter one"),
    ("Redrive", "filter.reason", ["malformed"], 'unknown field "spec.filter.reason"'),
    ("Redrive", "limit", 0, "should be greater than or equal to 1"),
    ("Redrive", "limit", 100_001, "should be less than or equal to 100000"),
    ("Redrive", "ratePerSecond", 0, "should be greater than or equal to 1"),
    ("Redrive", "ratePerSecond", 10_001, "should be less than or equal to 10000"),
    ("Redrive", "dryRun", "no", "boolean"),
    ("Redrive", "discard", {}, "spec.discard.reason: Required value"),
    ("Redrive", "discard.reason", "  ", "say why these messages are worthless"),
    ("Redrive", "discard.reason", "a" * 501, "500"),
]


@pytest.mark.parametrize(
    ("kind", "path", "value", "says"),
    REFUSED,
    ids=[f"{kind}-{path}-{number}" for number, (kind, path, *_) in enumerate(REFUSED)],
)
def test_a_wrong_field_is_refused_in_words_that_help(
    kube: Kube, crds_namespace: str, kind: str, path: str, value: object, says: str
) -> None:
    assert says in refused(kube, crds_namespace, body(kind, with_value(GOOD[kind], path, value)))


def test_every_field_has_been_tried_wrong_by_hand() -> None:
    """In words that help; one of an object that must be given whole stands under the object's own path."""
    hand = {(kind, path) for kind, path, *_ in REFUSED}
    untried = {
        (kind, path)
        for kind, path, _ in FIELDS
        if (kind, path) not in hand and (kind, path.rpartition(".")[0]) not in hand
    }
    assert untried == set()


@pytest.mark.parametrize(
    ("kind", "spec", "says"),
    [
        ("Resend", {"messageIds": []}, "should have at least 1 items"),
        (
            "Resend",
            {"messageIds": ["4711"]},
            "must be the id of a message, such as 0193a1b2-7c4d-7e10-9f00-0123456789ab",
        ),
        ("Resend", {"messageIds": ["0193a1b2-7c4d-7e10-9f00-0123456789ab"] * 2}, "Duplicate value"),
        ("Resend", {"createdBetween": {"from": "2026-01-31T10:00:00Z"}}, "createdBetween.to: Required value"),
        (
            "Resend",
            {"createdBetween": {"from": "2026-01-31T11:00:00Z", "to": "2026-01-31T10:00:00Z"}},
            "must begin before it ends",
        ),
        ("Redrive", {"inboxRef": {"name": "a"}, "discard": {"reason": "x"}, "force": True}, "leave force out"),
    ],
)
def test_a_wrong_choice_is_refused_in_words_that_help(
    kube: Kube, crds_namespace: str, kind: str, spec: Body, says: str
) -> None:
    whole = {"outboxRef": {"name": "shop"}, **spec} if kind == "Resend" else spec
    assert says in refused(kube, crds_namespace, body(kind, whole))


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Outbox", "stuckAfter", "60s"),
        ("Outbox", "stuckAfter", "1h30m"),
        ("Outbox", "stuckAfter", "366d"),
        ("Outbox", "interval", "5s"),
        ("Outbox", "interval", "1h"),
        ("Outbox", "alerts.oldestAge", "1000ms"),
        ("Inbox", "consumer", "Versand, Süd"),
        ("Redrive", "filter", {"olderThan": "1h", "newerThan": "7d"}),
        ("Redrive", "filter", {"olderThan": "7d", "newerThan": "200h"}),
        ("Redrive", "filter.messageIds", ["a stranger's own id"]),
    ],
)
def test_what_lies_on_a_bound_is_taken(kube: Kube, crds_namespace: str, kind: str, path: str, value: object) -> None:
    assert tried(kube, crds_namespace, body(kind, with_value(GOOD[kind], path, value)))


def test_a_list_as_long_as_it_may_be_is_within_the_api_servers_budget(kube: Kube, crds_namespace: str) -> None:
    ids = [f"0193a1b2-7c4d-7e10-9f00-{number:012x}" for number in range(1001)]
    assert tried(kube, crds_namespace, body("Resend", {"outboxRef": {"name": "a"}, "messageIds": ids[:1000]}))
    assert "1000" in refused(kube, crds_namespace, body("Resend", {"outboxRef": {"name": "a"}, "messageIds": ids}))


def test_defaults_are_filled_in(kube: Kube, crds_namespace: str) -> None:
    outbox = yaml.safe_load(tried(kube, crds_namespace, body("Outbox", GOOD["Outbox"])))["spec"]
    assert outbox == {
        "databaseSecretRef": {"name": "a", "key": "url"},
        "brokerSecretRef": {"name": "b", "key": "url", "managementKey": "management-url"},
        "stuckAfter": "2m",
        "interval": "30s",
        "resend": {"enabled": True, "batchSize": 1000, "maxParallelJobs": 1, "maxAttempts": 5},
        "retention": {"sentDays": 30},
        "alerts": {"oldestAge": "5m", "parked": 1},
    }
    inbox = yaml.safe_load(tried(kube, crds_namespace, body("Inbox", GOOD["Inbox"])))["spec"]
    assert (inbox["interval"], inbox["alerts"]) == ("30s", {"deadLetters": 1, "noConsumer": "2m"})
    redrive = yaml.safe_load(tried(kube, crds_namespace, body("Redrive", GOOD["Redrive"])))["spec"]
    assert redrive == {
        "inboxRef": {"name": "shipping"},
        "filter": {},
        "limit": 1000,
        "ratePerSecond": 100,
        "dryRun": False,
        "force": False,
    }


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [("Resend", "outboxRef.name", "another"), ("Redrive", "dryRun", True), ("Redrive", "limit", 5)],
)
def test_a_decision_cannot_be_changed(kube: Kube, namespace: str, kind: str, path: str, value: object) -> None:
    kube.apply(body(kind, GOOD[kind]), namespace=namespace)
    said = refused(kube, namespace, body(kind, with_value(GOOD[kind], path, value)))
    assert f"a {kind} is one decision, carried out once: its spec cannot be changed. Create another {kind}" in said
    kube.kubectl("label", kind.lower(), "tried", "seen=yes", "--namespace", namespace)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_taken(kube: Kube, crds_namespace: str, path: Path) -> None:
    said = kube.kubectl("apply", "--dry-run=server", "--namespace", crds_namespace, "-f", str(path))
    assert "created (server dry run)" in said


def test_a_list_tells_a_person_whether_all_is_well(kube: Kube, namespace: str) -> None:
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "NoQueueBound",
        "message": "m",
        "lastTransitionTime": "2026-01-31T10:00:00Z",
    }
    statuses: dict[str, Body] = {
        "Outbox": {"pending": 12, "stuck": 3, "parked": 1, "oldestAt": "2026-01-31T10:00:00Z", "conditions": [ready]},
        "Inbox": {"depth": 7, "inRetry": 2, "deadLetters": 4, "consumers": 1, "conditions": [ready]},
        "Resend": {"phase": "Running", "progress": "12 of 30 sent"},
        "Redrive": {"phase": "Succeeded", "progress": "4 would be moved", "newer": "kept"},
    }
    for kind, status in statuses.items():
        kube.apply(body(kind, GOOD[kind]), namespace=namespace)
        patch = yaml.safe_dump({"status": status})
        kube.kubectl(
            "patch",
            kind.lower(),
            "tried",
            "--namespace",
            namespace,
            "--subresource=status",
            "--type=merge",
            "-p",
            patch,
        )

    def shown(plural: str) -> list[list[str]]:
        printed = kube.kubectl("get", plural, "--namespace", namespace)
        return [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in printed.splitlines()]

    [head, [name, *cells, oldest, age]] = shown("obx")
    assert head == ["NAME", "READY", "PENDING", "STUCK", "PARKED", "OLDEST", "AGE"]
    assert (name, cells) == ("tried", ["False", "12", "3", "1"])
    assert oldest.endswith(("d", "y"))
    assert age.endswith("s")
    [head, cells] = shown("ibx")
    assert head == ["NAME", "READY", "DEPTH", "IN RETRY", "DEAD LETTERS", "CONSUMERS", "AGE"]
    assert cells[:-1] == ["tried", "False", "7", "2", "4", "1"]
    assert shown("rsnd")[1][:-1] == ["tried", "Running", "12 of 30 sent"]
    assert shown("rdrv")[1][:-1] == ["tried", "Succeeded", "4 would be moved", "false"]
    assert "NoQueueBound" in kube.kubectl("get", "outboxes,inboxes", "--namespace", namespace, "--output=wide")
    every = kube.kubectl("get", "outhaul", "--namespace", namespace, "--output=name").split()
    assert len(every) == 4
    redrive = kube.read("redrives", namespace, "tried")
    assert redrive is not None
    assert redrive["status"]["newer"] == "kept"


@pytest.mark.parametrize("kind", GOOD)
def test_kubectl_explains_every_field(kube: Kube, kind: str) -> None:
    told = kube.kubectl("explain", f"{kind.lower()}.spec", "--recursive")
    assert "<empty>" not in told
    assert kube.kubectl("explain", f"{kind.lower()}.spec").count("<no description>") == 0


@pytest.fixture(scope="module")
def crds_namespace() -> str:
    """Where nothing is made: server-side dry runs alone."""
    return "default"

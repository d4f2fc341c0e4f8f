import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chart_support import render
from operator_support import OUTBOX, UID, UNHURRIED, target
from outhaul.errors import ConfigurationError
from outhaul_operator.config import OperatorConfig
from outhaul_operator.jobs import JobSettings, job_name, manifest
from outhaul_operator.plan import JobRequest
from outhaul_operator.requests import RedriveRun, ResendRun
from outhaul_operator.specs import BrokerRef, SecretRef, Target

SETTINGS = JobSettings(image="outhaul/operator:1", service_account="outhaul-jobs")
REQUEST = JobRequest(
    name="outbox-0a1b2c3d-g1-r1-0",
    run=ResendRun(limit=1000, max_attempts=5),
    database=OUTBOX.database,
    broker=OUTBOX.broker,
    actor="outhaul-operator: Outbox shop/orders",
    deadline_seconds=620,
)
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def made(request: JobRequest = REQUEST, owner: Target | None = None, settings: JobSettings = SETTINGS) -> Any:
    return manifest(request, owner or target(), settings)


def pod(job: Any) -> Any:
    return job["spec"]["template"]["spec"]


def container(job: Any) -> Any:
    [only] = pod(job)["containers"]
    return only


def environment(job: Any) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container(job)["env"]}


def test_a_job_belongs_to_its_object_and_goes_with_it() -> None:
    job = made()
    assert job["metadata"]["name"] == "outbox-0a1b2c3d-g1-r1-0"
    assert job["metadata"]["namespace"] == "shop"
    assert job["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "outhaul.dev/v1alpha1",
            "kind": "Outbox",
            "name": "orders",
            "uid": UID,
            "controller": True,
            "blockOwnerDeletion": False,
        }
    ]
    labels = job["metadata"]["labels"]
    assert labels["app.kubernetes.io/managed-by"] == "outhaul-operator"
    assert labels["outhaul.dev/owner-uid"] == UID
    assert job["spec"]["template"]["metadata"]["labels"] == labels


def test_a_pod_is_as_the_restricted_standard_asks() -> None:
    spec = pod(made())
    security = container(made())["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["readOnlyRootFilesystem"] is True
    assert {next(iter(volume.keys() - {"name"})) for volume in spec["volumes"]} == {"emptyDir"}


def test_a_pod_has_no_way_into_the_api_and_no_foreign_variables() -> None:
    spec = pod(made())
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["serviceAccountName"] == "outhaul-jobs"


def test_a_job_ends_and_tells_hopeless_failures_from_others() -> None:
    spec = made()["spec"]
    assert spec["backoffLimit"] == 3
    assert spec["activeDeadlineSeconds"] == 620
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    evicted, hopeless = spec["podFailurePolicy"]["rules"]
    assert evicted == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert hopeless == {
        "action": "FailJob",
        "onExitCodes": {"containerName": "run", "operator": "In", "values": [64, 65, 66, 67, 68, 69]},
    }


def test_a_job_is_not_deleted_before_its_result_is_known() -> None:
    assert "ttlSecondsAfterFinished" not in made()["spec"]


@pytest.mark.parametrize(
    ("run", "command"), [(ResendRun(), "resend"), (RedriveRun(queue="q", consumer="c"), "redrive")]
)
def test_image_and_command_are_the_operators_whatever_the_resource_says(run: Any, command: str) -> None:
    request = JobRequest(name="n", run=run, database=SecretRef(name="d"), broker=BrokerRef(name="b"), actor="a")
    only = container(made(request))
    assert only["image"] == "outhaul/operator:1"
    assert only["command"] == ["python", "-P", "-m", "outhaul_operator.work", command]
    assert "args" not in only


def test_addresses_come_from_secrets_and_never_stand_in_the_job() -> None:
    given = environment(made())
    assert given["OUTHAUL_DATABASE_URL"] == {"secretKeyRef": {"name": "shop-database", "key": "url"}}
    assert given["OUTHAUL_AMQP_URL"] == {"secretKeyRef": {"name": "shop-broker", "key": "url"}}
    assert "management-url" not in json.dumps(made())


def test_the_run_is_named_as_its_decision_and_told_what_to_do() -> None:
    given = environment(made())
    assert given["OUTHAUL_RUN_ID"] == "outbox-0a1b2c3d-g1-r1-0"
    assert given["OUTHAUL_ACTOR"] == "outhaul-operator: Outbox shop/orders"
    assert ResendRun.from_document(json.loads(given["OUTHAUL_RUN_REQUEST"])) == REQUEST.run


def test_a_persons_text_is_not_expanded_by_kubernetes() -> None:
    run = RedriveRun(queue="q", consumer="c", discard_reason="worthless: $(OUTHAUL_DATABASE_URL)")
    request = JobRequest(name="n", run=run, database=OUTBOX.database, broker=OUTBOX.broker, actor="a")
    assert "$$(OUTHAUL_DATABASE_URL)" in environment(made(request))["OUTHAUL_RUN_REQUEST"]


def test_the_operators_own_configuration_reaches_every_job() -> None:
    settings = JobSettings(
        image="i",
        service_account="s",
        image_pull_policy="Never",
        environment={"OUTHAUL_LOG_LEVEL": "debug"},
    )
    job = made(settings=settings)
    assert environment(job)["OUTHAUL_LOG_LEVEL"] == "debug"
    assert container(job)["imagePullPolicy"] == "Never"


@pytest.mark.needs("helm")
def test_the_charts_pull_policy_reaches_the_jobs() -> None:
    documents = render({"images": {"pullPolicy": "Always", "pullSecrets": ["registry"]}})
    [operator] = [
        each for each in documents if each["kind"] == "Deployment" and each["metadata"]["name"] == "outhaul-operator"
    ]
    told = {each["name"]: each.get("value") for each in pod({"spec": operator["spec"]})["containers"][0]["env"]}
    config = OperatorConfig.from_environment(
        {"OUTHAUL_OPERATOR_JOB_IMAGE_PULL_POLICY": str(told["OUTHAUL_OPERATOR_JOB_IMAGE_PULL_POLICY"])}
    )
    assert config.job_image_pull_policy == "Always"
    with pytest.raises(ConfigurationError, match="write one of: Always, IfNotPresent, Never"):
        OperatorConfig.from_environment({"OUTHAUL_OPERATOR_JOB_IMAGE_PULL_POLICY": "always"})
    [account] = [
        each for each in documents if each["kind"] == "ServiceAccount" and each["metadata"]["name"] == "outhaul-job"
    ]
    assert account["imagePullSecrets"] == [{"name": "registry"}]


def test_a_job_has_requests_and_a_bound_on_memory() -> None:
    resources = container(made())["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"}
    assert "memory" in resources["limits"]


@UNHURRIED
@given(
    st.sampled_from(["Outbox", "Resend", "Redrive"]),
    st.uuids(),
    st.integers(1, 2**63 - 1),
    st.lists(st.integers(0, 10**12).map(str), max_size=3),
)
def test_every_name_is_a_dns_label(kind: str, uid: Any, generation: int, suffixes: list[str]) -> None:
    name = job_name(kind, str(uid), generation, *suffixes)
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name)


def test_a_name_that_would_be_too_long_is_cut_and_still_its_own() -> None:
    one, other = (job_name("Outbox", UID, 10**60 + last, "r1", "0") for last in (1, 2))
    assert len(one) == len(other) == 63
    assert one != other
    assert one == job_name("Outbox", UID, 10**60 + 1, "r1", "0")


@UNHURRIED
@given(st.lists(st.integers(1, 10**60), min_size=2, max_size=2, unique=True))
def test_two_decisions_never_share_a_name(generations: list[int]) -> None:
    one, other = (job_name("Outbox", UID, generation, "r1", "0") for generation in generations)
    assert one != other


@UNHURRIED
@given(st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", fullmatch=True))
def test_labels_are_valid_for_every_name_an_object_may_have(name: str) -> None:
    for value in made(owner=target(name=name))["metadata"]["labels"].values():
        assert LABEL.fullmatch(value)

"""Certificates that Jobs trust come from the operator's own configuration, never from a resource."""

from __future__ import annotations

from typing import Any

import pytest

from outhaul.errors import ConfigurationError
from outhaul_operator.config import OperatorConfig
from outhaul_operator.jobs import JobSettings, manifest
from outhaul_operator.plan import JobRequest
from outhaul_operator.requests import ResendRun
from outhaul_operator.specs import BrokerRef, SecretRef, Target

TARGET = Target(kind="Outbox", namespace="shop", name="o", uid="0a1b2c3d-0", generation=1, resource_version="1")
REQUEST = JobRequest(
    name="outbox-0a1b2c3d-g1-r1-0",
    run=ResendRun(limit=1, max_attempts=1),
    database=SecretRef(name="d"),
    broker=BrokerRef(name="b"),
    actor="a",
    deadline_seconds=60,
)


def pod(**authorities: Any) -> dict[str, Any]:
    settings = JobSettings(image="outhaul/operator:1", service_account="outhaul-job", **authorities)
    found: dict[str, Any] = manifest(REQUEST, TARGET, settings)["spec"]["template"]["spec"]
    return found


def told(spec: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in spec["containers"][0]["env"]}


def test_a_job_trusts_the_authorities_it_is_given() -> None:
    spec = pod(
        broker_authority=SecretRef(name="ca", key="one.pem"), database_authority=SecretRef(name="db-ca", key="ca")
    )
    assert [each["secret"]["secretName"] for each in spec["volumes"][1:]] == ["ca", "db-ca"]
    mounts = {each["mountPath"] for each in spec["containers"][0]["volumeMounts"]}
    environment = told(spec)
    for name in ("SSL_CERT_FILE", "PGSSLROOTCERT"):
        assert environment[name].rpartition("/")[0] in mounts
    assert environment["SSL_CERT_FILE"].endswith("/one.pem")
    assert environment["PGSSLMODE"] == "verify-full"


def test_without_authorities_a_job_goes_by_its_urls_and_its_image() -> None:
    spec = pod()
    assert len(spec["volumes"]) == 1
    assert not {"SSL_CERT_FILE", "PGSSLMODE", "PGSSLROOTCERT"} & told(spec).keys()


def test_the_operator_is_told_of_them_as_secret_and_entry() -> None:
    config = OperatorConfig.from_environment(
        {
            "OUTHAUL_OPERATOR_JOB_BROKER_AUTHORITY": "broker-ca/ca.crt",
            "OUTHAUL_OPERATOR_JOB_DATABASE_AUTHORITY": "database-ca/ca.crt",
        }
    )
    assert config.job_broker_authority == SecretRef(name="broker-ca", key="ca.crt")
    assert config.job_database_authority == SecretRef(name="database-ca", key="ca.crt")
    assert OperatorConfig.from_environment({}).job_broker_authority is None
    for wrong in ("broker-ca", "/ca.crt", "A/ca.crt", "a/b/c"):
        with pytest.raises(ConfigurationError, match=r"such as broker-ca/ca\.crt"):
            OperatorConfig.from_environment({"OUTHAUL_OPERATOR_JOB_BROKER_AUTHORITY": wrong})

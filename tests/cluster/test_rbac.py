"""The chart's Role holds what the operator does, all of it: each verb is seen used, and none is refused.

How a right that is missing is told is in test_operator_manners.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import User

from chart_support import Document, render
from cluster.api_proxy import ApiProxy
from cluster.kube import Kube, KubectlFailed
from cluster.operators import LocalOperator
from cluster.stage import Stage
from conftest import missing
from support import poll

_PATH = re.compile(
    r"/apis?/(?:(?P<group>[^/]+)/)?v1(?:alpha1)?/namespaces/[^/]+/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+)(?P<sub>/status)?)?"
)
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
Right = tuple[str, str, str]


class RecordingProxy(ApiProxy):
    """Notes what is asked for, as RBAC names it, and what is refused. Each kind's first status meets a conflict."""

    def __init__(self, upstream: SingleConfig) -> None:
        super().__init__(upstream)
        self.used: set[Right] = set()
        self.refused: list[str] = []
        self._met_conflict: set[str] = set()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        right = _right(request)
        if right is not None:
            self.used.add(right)
            if right[2] == "update" and right[1] not in self._met_conflict:
                self._met_conflict.add(right[1])
                status = {
                    "kind": "Status",
                    "status": "Failure",
                    "reason": "Conflict",
                    "code": 409,
                    "message": "changed",
                }
                return web.json_response(status, status=409)
        answer = await super()._forward(request)
        if answer.status == 403:
            self.refused.append(f"{request.method} {request.path}")
        return answer


def _right(request: web.Request) -> Right | None:
    """What a rule must allow for this request; None for what everybody may ask."""
    found = _PATH.fullmatch(request.path)
    if found is None:
        return None
    verb = _VERBS.get(request.method)
    if verb is None:
        verb = "get" if found["name"] else "watch" if request.query.get("watch") in {"true", "1"} else "list"
    return found["group"] or "", found["resource"] + (found["sub"] or ""), verb


def _granted(role: Document) -> set[Right]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.fixture
def role(kube: Kube, namespace: str) -> Document:
    """The Role that the chart makes, bound to its ServiceAccount; no operator runs."""
    documents = [
        document
        for document in render({"crds": {"install": False}}, namespace=namespace)
        if document["kind"] in {"ServiceAccount", "Role", "RoleBinding"}
    ]
    kube.apply(*documents)
    [found] = [document for document in documents if document["kind"] == "Role"]
    return found


@pytest.fixture
def proxy(kube: Kube, namespace: str, role: Document) -> Iterator[RecordingProxy]:
    """The API server for whoever has the token of the chart's ServiceAccount and nothing else."""
    token = kube.kubectl("create", "token", "outhaul-operator", "--namespace", namespace).strip()
    single: Any = kube.config.get()
    with RecordingProxy(single._replace(user=User(token=token))) as made:
        yield made


@pytest.fixture
def operator(lone_stage: Stage, proxy: RecordingProxy, tmp_path: Path) -> Iterator[LocalOperator]:
    if not lone_stage.servers.direct:
        missing("a way from this machine to the cluster's addresses, which the operator's Jobs are given")
    account = {"OUTHAUL_OPERATOR_JOB_SERVICE_ACCOUNT": "outhaul-job"}
    made = LocalOperator(lone_stage.namespace, tmp_path, proxy, account)
    made.start()
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()


@pytest.mark.timeout(600)
def test_every_right_the_chart_grants_is_used_and_none_is_missing(
    lone_stage: Stage, role: Document, proxy: RecordingProxy, operator: LocalOperator
) -> None:
    stage = lone_stage
    [topology] = [
        each
        for each in render(namespace=stage.namespace)
        if each["kind"] == "ConfigMap" and each["metadata"]["name"] == "outhaul-topology"
    ]
    stage.kube.apply(topology)
    stage.record(10)
    stage.letters(2)
    outbox = stage.outbox(topologyRef={"name": "outhaul-topology"})
    inbox = stage.inbox(topologyRef={"name": "outhaul-topology"})
    poll(lambda: stage.unsent() == 0, seconds=90, what="the stuck rows to be sent by a Job")
    resend = stage.resend("again", outbox, parked=True)
    redrive = stage.redrive("look", inbox, dryRun=True)
    stage.reaches("resend", resend, "Succeeded")
    stage.reaches("redrive", redrive, "Succeeded")
    # The same trouble twice is one event, counted.
    secret = f"{stage.name}-order-database"
    for _ in range(2):
        stage.kube.kubectl("label", "secret", secret, "outhaul.dev/allow-", "--namespace", stage.namespace)
        stage.says("outbox", outbox, "DatabaseReachable", "False", "does not carry the label")
        stage.kube.kubectl("label", "secret", secret, "outhaul.dev/allow=true", "--namespace", stage.namespace)
        stage.says("outbox", outbox, "DatabaseReachable", "True")
    poll(lambda: _granted(role) <= proxy.used, seconds=30, what=f"the use of {_granted(role) - proxy.used}")
    assert proxy.used - _granted(role) == set()
    assert proxy.refused == []


@pytest.mark.parametrize(
    "question",
    [
        "delete outboxes.outhaul.dev",
        "patch outboxes.outhaul.dev",
        "update outboxes.outhaul.dev",
        "list secrets",
        "watch secrets",
        "create secrets",
        "delete jobs.batch",
        "create pods",
        "get pods --subresource=exec",
        "create roles.rbac.authorization.k8s.io",
        "create serviceaccounts --subresource=token",
    ],
)
def test_what_the_operator_does_not_do_it_may_not(kube: Kube, namespace: str, role: Document, question: str) -> None:
    account = f"--as=system:serviceaccount:{namespace}:outhaul-operator"
    # kubectl ends with 1 for "no".
    with pytest.raises(KubectlFailed, match=r": no$"):
        kube.kubectl("auth", "can-i", *question.split(), account, "--namespace", namespace)


def test_the_operator_may_do_nothing_elsewhere(kube: Kube, namespace: str, role: Document) -> None:
    account = f"--as=system:serviceaccount:{namespace}:outhaul-operator"
    for question in ("get secrets", "create jobs.batch", "list outboxes.outhaul.dev"):
        with pytest.raises(KubectlFailed, match=r": no$"):
            kube.kubectl("auth", "can-i", *question.split(), account, "--namespace", "default")


@pytest.mark.parametrize("account", ["outhaul-job", "outhaul-order", "outhaul-waybill", "outhaul-setup"])
def test_no_other_account_of_the_chart_may_do_anything(
    kube: Kube, namespace: str, role: Document, account: str
) -> None:
    """Beyond what everybody may who is authenticated."""
    who = f"system:serviceaccount:{namespace}:{account}"
    told = kube.kubectl("auth", "can-i", "--list", f"--as={who}", "--namespace", namespace, "--no-headers")
    resources = [line.split()[0] for line in told.splitlines() if not line.startswith(" ")]
    assert set(resources) <= {
        "selfsubjectreviews.authentication.k8s.io",
        "selfsubjectaccessreviews.authorization.k8s.io",
        "selfsubjectrulesreviews.authorization.k8s.io",
    }

"""The harness itself: which clusters it refuses, and that its servers do what scenarios ask of them."""

from __future__ import annotations

import json

import httpx
import pytest

from cluster.api_proxy import ApiProxy
from cluster.kube import Kube, refusal
from cluster.stage import Stage


@pytest.mark.parametrize("context", ["kind-outhaul", "k3d-dev", "minikube", "test", "ci-test-3"])
def test_a_context_that_is_plainly_for_tests_is_used(context: str) -> None:
    assert refusal(context, None) is None


@pytest.mark.parametrize("context", ["prod", "kind", "gke_shop_europe-west1_main"])
def test_any_other_context_is_refused_unless_it_is_named(context: str) -> None:
    assert "OUTHAUL_TEST_CLUSTER" in (refusal(context, None) or "")
    assert refusal(context, context) is None


def test_a_recorded_row_is_aged_and_a_letter_lies_in_its_queue(lone_stage: Stage) -> None:
    ids = lone_stage.record(3)
    assert len(set(ids)) == lone_stage.unsent() == 3
    old = "SELECT count(*) FROM outbox WHERE created_at < now() - interval '9 minutes'"
    assert lone_stage.query(lone_stage.order, old) == [(3,)]
    lone_stage.letters(2)
    assert lone_stage.depth("outhaul.waybill.dlq") == 2


def test_a_namespace_refuses_a_pod_that_is_not_restricted(kube: Kube, namespace: str) -> None:
    with pytest.raises(AssertionError, match="restricted"):
        kube.kubectl("run", "root", "--image=busybox", "--namespace", namespace)


def test_kubectl_shows_an_outbox_nobody_has_looked_at_yet(lone_stage: Stage) -> None:
    name = lone_stage.outbox()
    assert lone_stage.row("outbox", name)["READY"] == ""


def test_the_proxy_passes_requests_on_and_takes_the_api_server_away(kube: Kube) -> None:
    single = kube.config.get()
    assert single is not None
    ended: list[str] = []
    with ApiProxy(single) as proxy, httpx.Client(base_url=f"http://127.0.0.1:{proxy.port}", trust_env=False) as client:
        assert client.get("/api/v1/namespaces/default").json()["metadata"]["name"] == "default"
        with client.stream("GET", "/api/v1/namespaces?watch=true&timeoutSeconds=20") as watch:
            lines = watch.iter_lines()
            assert json.loads(next(lines))["type"] == "ADDED"
            proxy.stop()
            with pytest.raises(httpx.TransportError):
                list(lines)
        with pytest.raises(httpx.ConnectError):
            client.get("/version")
        proxy.start()
        blown = proxy.fuse("GET", "/version", "after", lambda: ended.append("client"))
        assert client.get("/version").status_code == 503
        assert client.get("/version").status_code == 200
        assert blown.is_set()
        assert ended == ["client"]

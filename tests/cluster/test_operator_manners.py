"""How the operator behaves towards people's objects and towards the API server, whatever it finds out about them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.kube import Kube
from cluster.operators import LocalOperator
from cluster.refusing_proxy import RefusingProxy
from cluster.stage import API_VERSION
from outhaul_operator.adapters.permissions import PERMISSIONS
from outhaul_operator.specs import ALLOW_LABEL
from support import poll

NOBODY = "postgresql://nobody:none@127.0.0.1:1/none"
Operators = Callable[..., tuple[LocalOperator, RefusingProxy]]


@pytest.fixture
def operators(kube: Kube, crds: None, tmp_path: Path) -> Iterator[Operators]:
    """Starts operators of a namespace, each behind a proxy of its own; ended after the test."""
    made: list[LocalOperator] = []
    with ExitStack() as stack:
        single = kube.config.get()
        assert single is not None

        def make(namespace: str, *, start: bool = True, **settings: str) -> tuple[LocalOperator, RefusingProxy]:
            proxy = RefusingProxy(single)
            stack.enter_context(proxy)
            operator = LocalOperator(namespace, tmp_path, proxy, {"OUTHAUL_OPERATOR_LOOK_TIMEOUT": "2s", **settings})
            made.append(operator)
            if start:
                operator.start()
            return operator, proxy

        yield make
        for operator in made:
            if operator.process is not None and operator.process.poll() is None:
                operator.kill()


def apply(kube: Kube, namespace: str, kind: str, name: str, spec: Mapping[str, Any], **metadata: Any) -> None:
    document = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, **metadata}, "spec": dict(spec)}
    kube.apply(document, namespace=namespace)


def secret(kube: Kube, namespace: str, url: str = NOBODY) -> None:
    labels = {ALLOW_LABEL: "true"}
    entries = {"url": url, "broker": "amqp://nobody:none@127.0.0.1:1/none"}
    kube.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "ways", "labels": labels}, "stringData": entries},
        namespace=namespace,
    )


OUTBOX = {"databaseSecretRef": {"name": "ways"}, "brokerSecretRef": {"name": "ways", "key": "broker"}, "interval": "5s"}
INBOX = {**OUTBOX, "consumer": "waybill", "queue": "outhaul.waybill"}


def observed(kube: Kube, namespace: str, plural: str, name: str) -> int:
    found = kube.read(plural, namespace, name) or {}
    return int(found.get("status", {}).get("observedGeneration", 0))


def exposed(operator: LocalOperator) -> str:
    return httpx.get(f"http://127.0.0.1:{operator.http_port}/metrics", timeout=10, trust_env=False).text


def metric(operator: LocalOperator, name: str) -> float:
    """The sum of a metric's series whose line begins so."""
    lines = exposed(operator).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_nothing_but_the_status_of_its_own_kinds_is_written(kube: Kube, namespace: str, operators: Operators) -> None:
    secret(kube, namespace)
    mine = {"labels": {"team": "shop"}, "annotations": {"note": "mine"}}
    apply(kube, namespace, "Outbox", "o", OUTBOX, **mine)
    apply(kube, namespace, "Inbox", "i", INBOX, **mine)
    apply(kube, namespace, "Resend", "s", {"outboxRef": {"name": "o"}, "parked": True}, **mine)
    apply(kube, namespace, "Redrive", "d", {"inboxRef": {"name": "i"}}, **mine)
    kinds = {"outboxes": "o", "inboxes": "i", "resends": "s", "redrives": "d", "secrets": "ways"}

    def metadata() -> dict[str, dict[str, Any]]:
        found = {plural: kube.read(plural, namespace, name) or {} for plural, name in kinds.items()}
        kept = {"name", "labels", "annotations", "finalizers", "ownerReferences", "uid"}
        return {
            plural: {key: value for key, value in each["metadata"].items() if key in kept}
            for plural, each in found.items()
        }

    before = metadata()
    operator, _ = operators(namespace)
    for plural in ("outboxes", "inboxes", "resends", "redrives"):
        poll(lambda p=plural: observed(kube, namespace, p, kinds[p]), seconds=40, what=plural)  # type: ignore[misc]
    apply(kube, namespace, "Outbox", "o", {**OUTBOX, "interval": "6s"}, **mine)
    poll(lambda: observed(kube, namespace, "outboxes", "o") == 2, seconds=20, what="the changed spec")
    assert operator.stop() == 0

    assert metadata() == before
    for plural in ("outboxes", "inboxes", "resends", "redrives"):
        found = kube.read(plural, namespace, kinds[plural]) or {}
        writers = {(each["manager"], each.get("subresource", "")) for each in found["metadata"]["managedFields"]}
        assert writers == {("kubectl", ""), ("outhaul-operator", "status")}


def test_an_object_that_stays_as_it_is_is_written_and_told_of_once(
    kube: Kube, namespace: str, operators: Operators
) -> None:
    secret(kube, namespace)
    apply(kube, namespace, "Outbox", "o", OUTBOX)
    operator, _ = operators(namespace)
    looks = 'outhaul_operator_looks_total{kind="Outbox",result="done"}'
    poll(lambda: metric(operator, looks) >= 1, seconds=40, what="the first look")
    first = kube.read("outboxes", namespace, "o") or {}
    poll(lambda: metric(operator, looks) >= 4, seconds=60, what="three looks more")

    after = kube.read("outboxes", namespace, "o") or {}
    assert after["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert after["status"]["conditions"] == first["status"]["conditions"]
    told = [each for each in kube.all("events", namespace) if each["involvedObject"]["kind"] == "Outbox"]
    assert told
    assert {each.get("count", 1) for each in told} == {1}


def test_a_changed_spec_is_looked_at_at_once(kube: Kube, namespace: str, operators: Operators) -> None:
    secret(kube, namespace)
    apply(kube, namespace, "Outbox", "o", {**OUTBOX, "interval": "1h"})
    operators(namespace)
    poll(lambda: observed(kube, namespace, "outboxes", "o") == 1, seconds=40, what="the first look")
    apply(kube, namespace, "Outbox", "o", {**OUTBOX, "interval": "59m"})
    poll(lambda: observed(kube, namespace, "outboxes", "o") == 2, seconds=15, what="the look at the change")


def test_a_deleted_object_goes_at_once_and_takes_its_series_with_it(
    kube: Kube, namespace: str, operators: Operators
) -> None:
    secret(kube, namespace)
    apply(kube, namespace, "Outbox", "o", OUTBOX)
    operator, _ = operators(namespace)
    series = 'outhaul_operator_ready{kind="Outbox"'
    poll(lambda: series in exposed(operator), seconds=40, what="the series")
    kube.kubectl("delete", "outbox", "o", "--namespace", namespace, "--timeout=10s")
    poll(lambda: series not in exposed(operator), seconds=15, what="the series' end")
    assert metric(operator, "outhaul_operator_objects") == 0


@contextmanager
def silent_host() -> Iterator[str]:
    """A URL of a host that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=200) as sock:
        yield f"postgresql://nobody:none@127.0.0.1:{sock.getsockname()[1]}/none"


def test_sigterm_ends_it_within_a_second_while_its_looks_hang(kube: Kube, namespace: str, operators: Operators) -> None:
    with silent_host() as url:
        secret(kube, namespace, url)
        for number in range(20):
            apply(kube, namespace, "Outbox", f"o{number}", OUTBOX)
        operator, _ = operators(namespace, OUTHAUL_OPERATOR_LOOK_TIMEOUT="50s")
        poll(lambda: _connected(url) >= 15, seconds=40, what="looks that hang")
        started = time.monotonic()
        assert operator.stop() == 0
    assert time.monotonic() - started < 1.0


def _connected(url: str) -> int:
    port = url.rpartition(":")[2].partition("/")[0]
    wanted = f":{int(port):04X} 01"
    return sum(wanted in line for line in Path("/proc/net/tcp").read_text().splitlines())


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_api_server_that_cannot_write_now_is_asked_again(
    kube: Kube, namespace: str, operators: Operators, status: int
) -> None:
    secret(kube, namespace)
    operator, proxy = operators(namespace)
    proxy.refuse("PUT", r"/outboxes/o/status$", status)
    apply(kube, namespace, "Outbox", "o", {**OUTBOX, "interval": "1h"})
    poll(lambda: proxy.refused >= 2, seconds=40, what="a second try")
    assert observed(kube, namespace, "outboxes", "o") == 0
    proxy.relent()
    poll(lambda: observed(kube, namespace, "outboxes", "o") == 1, seconds=40, what="the status")
    assert metric(operator, f'outhaul_operator_api_errors_total{{code="{status}"}}') >= 2


def test_a_status_that_met_a_conflict_is_planned_anew(kube: Kube, namespace: str, operators: Operators) -> None:
    secret(kube, namespace)
    operator, proxy = operators(namespace)
    proxy.refuse("PUT", r"/outboxes/o/status$", 409)
    apply(kube, namespace, "Outbox", "o", {**OUTBOX, "interval": "1h"})
    poll(lambda: proxy.refused >= 2, seconds=40, what="a second try")
    proxy.relent()
    poll(lambda: observed(kube, namespace, "outboxes", "o") == 1, seconds=20, what="the status")
    assert metric(operator, 'outhaul_operator_status_conflicts_total{kind="Outbox"}') >= 2


def test_an_api_server_that_is_away_costs_nothing_but_time(kube: Kube, namespace: str, operators: Operators) -> None:
    secret(kube, namespace)
    apply(kube, namespace, "Outbox", "o", {**OUTBOX, "interval": "5s"})
    operator, proxy = operators(namespace)
    poll(lambda: observed(kube, namespace, "outboxes", "o") == 1, seconds=40, what="the first look")
    proxy.stop()
    # Not any request: an event of the first look may be refused first, and is dropped.
    failed = 'outhaul_operator_looks_total{kind="Outbox",result="failed"}'
    poll(lambda: metric(operator, failed) >= 2, seconds=60, what="looks that failed")
    apply(kube, namespace, "Outbox", "o", {**OUTBOX, "interval": "7s"})
    apply(kube, namespace, "Outbox", "new", OUTBOX)
    proxy.start()
    poll(lambda: observed(kube, namespace, "outboxes", "o") == 2, seconds=60, what="the change made meanwhile")
    poll(lambda: observed(kube, namespace, "outboxes", "new") == 1, seconds=60, what="the object made meanwhile")
    log = operator.log.read_text()
    assert f"looks fail and are tried again: API server at 127.0.0.1:{proxy.port}" in log
    assert log.count("Request attempt") <= 3, "an outage is told of now and then, not at each try"
    assert operator.process is not None
    assert operator.process.poll() is None


def test_an_operator_of_the_whole_cluster_is_told_of_no_namespace(
    kube: Kube, namespace: str, operators: Operators
) -> None:
    secret(kube, namespace)
    apply(kube, namespace, "Outbox", "o", OUTBOX)
    operator, proxy = operators(namespace, start=False, OUTHAUL_OPERATOR_NAMESPACES="")
    proxy.narrow(namespace)
    operator.start()
    poll(lambda: observed(kube, namespace, "outboxes", "o") == 1, seconds=40, what="the first look")
    apply(kube, namespace, "Inbox", "i", INBOX)
    poll(lambda: observed(kube, namespace, "inboxes", "i") == 1, seconds=20, what="the object made meanwhile")
    plurals = ("outboxes", "inboxes", "resends", "redrives")
    assert proxy.widest == {"/apis/batch/v1/jobs", *(f"/apis/outhaul.dev/v1alpha1/{plural}" for plural in plurals)}


def test_without_the_resource_definitions_it_says_so_and_ends(namespace: str, operators: Operators) -> None:
    operator, proxy = operators(namespace, start=False)
    proxy.refuse("GET", r"^/apis/outhaul.dev", 404)
    with pytest.raises(AssertionError, match="the operator ended"):
        operator.start()
    assert operator.process is not None
    assert operator.process.wait(10) == 1
    [line] = operator.log.read_text().splitlines()[-1:]
    assert "the resource definitions of outhaul.dev/v1alpha1" in line
    assert "Traceback" not in operator.log.read_text()


def allowed(kube: Kube, namespace: str, folder: Path, *, without: tuple[str, str] | None = None) -> str:
    """A kubeconfig of a service account with the operator's permissions, but for one verb on one resource."""
    rules = [
        {
            "apiGroups": [permission.group],
            "resources": [permission.resource],
            "verbs": [verb for verb in permission.verbs if (verb, permission.resource) != without],
        }
        for permission in PERMISSIONS
    ]
    rbac = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": "op"}}
    binding = {
        "apiVersion": f"{rbac}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "op"},
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "op"},
        "subjects": [{"kind": "ServiceAccount", "name": "op", "namespace": namespace}],
    }
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "op"}}
    kube.apply(account, {**role, "rules": [rule for rule in rules if rule["verbs"]]}, binding, namespace=namespace)
    token = kube.kubectl("create", "token", "op", "--namespace", namespace).strip()
    config = json.loads(kube.kubectl("config", "view", "--raw", "--minify", "--output=json"))
    config["users"][0]["user"] = {"token": token}
    path = folder / "allowed"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def test_it_needs_no_more_than_its_role(kube: Kube, namespace: str, tmp_path: Path, operators: Operators) -> None:
    secret(kube, namespace)
    apply(kube, namespace, "Outbox", "o", OUTBOX)
    operator, _ = operators(namespace, KUBECONFIG=allowed(kube, namespace, tmp_path))
    poll(lambda: observed(kube, namespace, "outboxes", "o") == 1, seconds=40, what="the status")
    poll(lambda: kube.all("events", namespace), seconds=20, what="an event")
    assert metric(operator, 'outhaul_operator_api_errors_total{code="403"}') == 0


def test_a_secret_it_may_not_read_is_named_on_the_object(
    kube: Kube, namespace: str, tmp_path: Path, operators: Operators
) -> None:
    secret(kube, namespace)
    apply(kube, namespace, "Outbox", "o", OUTBOX)
    operators(namespace, KUBECONFIG=allowed(kube, namespace, tmp_path, without=("get", "secrets")))
    poll(lambda: observed(kube, namespace, "outboxes", "o") == 1, seconds=40, what="the status")
    conditions = (kube.read("outboxes", namespace, "o") or {})["status"]["conditions"]
    [ready] = [each for each in conditions if each["type"] == "Ready"]
    assert ready["status"] == "False"
    assert "the operator may not get the Secret ways" in ready["message"]


def test_a_status_it_may_not_write_keeps_it_from_nothing_else(
    kube: Kube, namespace: str, tmp_path: Path, operators: Operators
) -> None:
    secret(kube, namespace)
    apply(kube, namespace, "Outbox", "o", OUTBOX)
    apply(kube, namespace, "Inbox", "i", INBOX)
    config = allowed(kube, namespace, tmp_path, without=("update", "outboxes/status"))
    operator, _ = operators(namespace, KUBECONFIG=config)
    poll(lambda: observed(kube, namespace, "inboxes", "i") == 1, seconds=40, what="the Inbox's status")
    poll(
        lambda: "may not update the status of Outbox" in operator.log.read_text(), seconds=20, what="a word in the log"
    )
    assert observed(kube, namespace, "outboxes", "o") == 0
    assert operator.process is not None
    assert operator.process.poll() is None


def test_what_it_may_not_list_is_said_at_start(
    kube: Kube, namespace: str, tmp_path: Path, operators: Operators
) -> None:
    operator, _ = operators(namespace, start=False)
    operator.settings["KUBECONFIG"] = allowed(kube, namespace, tmp_path, without=("list", "redrives"))
    with pytest.raises(AssertionError, match=f"may not list Redrive objects in namespace {namespace}"):
        operator.start()
    assert operator.process is not None
    assert operator.process.wait(10) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"OUTHAUL_OPERATOR_MAX_JOBS": "many"}, "OUTHAUL_OPERATOR_MAX_JOBS='many': write a whole number"),
        ({"OUTHAUL_OPERATOR_NAMESPACES": "a,B"}, "OUTHAUL_OPERATOR_NAMESPACES='B': write names of namespaces"),
        ({"OUTHAUL_OPERATOR_IMAGE": "no image"}, "OUTHAUL_OPERATOR_IMAGE='no image'"),
        ({"OUTHAUL_ALERT_WEBHOOK_URL": "mail:x"}, "OUTHAUL_ALERT_WEBHOOK_URL"),
        ({"KUBECONFIG": "/no/such/file"}, "no way to the API server"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_line_and_exit_code_2(settings: dict[str, str], words: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "outhaul_operator"],
        env={"PATH": "/usr/bin:/bin", "OUTHAUL_HTTP_PORT": "0", **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2, ended.stderr
    [line] = ended.stderr.splitlines()
    assert line.startswith("outhaul-operator: ")
    assert words in line

"""Tests on a real Kubernetes, by any KUBECONFIG whose context is plainly for tests.

Run by ``make test-cluster``. Without KUBECONFIG they are skipped, in CI they fail. ``OUTHAUL_TEST_CLUSTER=<context>``
allows a context that is called neither kind-*, k3d-*, minikube nor anything with "test". The images outhaul/order,
outhaul/waybill and outhaul/operator, tag ``OUTHAUL_TEST_TAG`` (dev), must be in the cluster, and postgres:18 and
rabbitmq:4.3-management where it can pull them.

For the session
  kube               `cluster.kube.Kube`: kubectl(...), apply(documents), read/all by the API, table
  crds               the definitions of Outbox, Inbox, Resend and Redrive are served
  servers            `cluster.in_cluster.Servers`: PostgreSQL 18 and RabbitMQ 4.3 in a namespace of their own;
                     scale(name, replicas) stops and starts one; inside(url): the same for pods
  postgres_url, make_database, broker    those of tests/conftest.py, over these servers
  operated_namespace a namespace in which the chart's operator runs, shared by all tests that only look at it
For a test
  make_namespace     makes a restricted namespace, deleted afterwards without waiting
  namespace          one such
  stage              `cluster.stage.Stage` in ``operated_namespace``: databases, a virtual host, a topology of its own;
                     outbox(), inbox(), resend(), redrive(), record(rows), letters(n), shows(kind, name, ready="True"),
                     says(kind, name, condition, status, words), tells(name, words), reaches(kind, name, phase), jobs()
  lone_stage         the same in ``namespace``, where nothing runs
  shop               `cluster.shop.Shop` in ``namespace``: databases, roles, broker users and Secrets for the whole
                     chart; upgrade(values), jobs(), http(function, port), rows(database, query), stage()
  keda               the cluster has KEDA, and it can scale
  make_local_operator  starts `python -P -m outhaul_operator` on this machine for a namespace, its API server behind a
                     proxy that tests can stop and that can kill it at a chosen write; needs cluster IPs to be reachable
`cluster.operators.install(kube, namespace, **values)` installs the chart, the operator alone unless values say more.

When a test fails, its namespace's resources, events and logs are printed before the namespace goes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from cluster import diagnostics
from cluster.api_proxy import ApiProxy
from cluster.in_cluster import Servers, namespace_manifest
from cluster.kube import Kube, refusal
from cluster.operators import CHART, LocalOperator, install
from cluster.shop import Shop, opened
from cluster.stage import Stage
from conftest import MakeDatabase, missing
from support import BrokerUnderTest, poll

CRDS = CHART / "files" / "crds"
MakeNamespace = Callable[[], str]
MakeLocalOperator = Callable[..., LocalOperator]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is a cluster test, and starting pods takes longer than other tests may."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(300))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Remember that it failed, and ask its namespaces before their fixtures delete them."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed and call.when == "call":
        kube = item.funcargs.get("kube") if hasattr(item, "funcargs") else None
        for name in _namespaces(item):
            if isinstance(kube, Kube):
                report.sections.append((f"namespace {name}", diagnostics.of(kube, name)))
    return report  # type: ignore[return-value]


def _namespaces(item: pytest.Item) -> list[str]:
    asked = getattr(item, "funcargs", {})
    stages = [each.namespace for each in asked.values() if isinstance(each, Stage)]
    named = [asked[name] for name in ("namespace", "operated_namespace") if name in asked]
    return list(dict.fromkeys([*stages, *named]))


@pytest.fixture(scope="session")
def kube() -> Iterator[Kube]:
    """The cluster under test."""
    if not os.environ.get("KUBECONFIG"):
        missing("KUBECONFIG")
    made = Kube()
    refused = refusal(made.context, os.environ.get("OUTHAUL_TEST_CLUSTER"))
    if refused:
        pytest.fail(refused)
    yield made
    made.close()


@pytest.fixture(scope="session")
def crds(kube: Kube) -> None:
    """The custom resources are served."""
    kube.apply_folder(CRDS)
    poll(lambda: kube.path("/apis/outhaul.dev/v1alpha1"), seconds=30, what="outhaul.dev/v1alpha1")
    for plural in ("outboxes", "inboxes", "resends", "redrives"):
        poll(
            lambda plural=plural: kube.path(f"/apis/outhaul.dev/v1alpha1/{plural}"),  # type: ignore[misc]
            seconds=30,
            what=f"{plural} to be served",
        )


@pytest.fixture(scope="session")
def servers(kube: Kube) -> Iterator[Servers]:
    """PostgreSQL and RabbitMQ for the session."""
    made = Servers(kube, f"harness-servers-{secrets.token_hex(3)}")
    try:
        made.start()
        yield made
    except AssertionError as error:
        pytest.fail(f"{error}\n{diagnostics.of(kube, made.namespace)}")
    finally:
        made.close()
        kube.delete_soon("namespace", made.namespace)


@pytest.fixture(scope="session")
def postgres_url(servers: Servers) -> str:
    """The session's PostgreSQL, for a superuser."""
    host, port = servers.way("postgres", 5432)
    return f"postgresql://postgres:{servers.password}@{host}:{port}/postgres"


@pytest.fixture(scope="session")
def _broker_urls(servers: Servers) -> tuple[str, str]:
    login = f"outhaul:{quote(servers.password)}"
    (amqp_host, amqp_port), (host, port) = servers.way("rabbitmq", 5672), servers.way("rabbitmq", 15672)
    return f"amqp://{login}@{amqp_host}:{amqp_port}/%2F", f"http://{login}@{host}:{port}"


@pytest.fixture
def make_namespace(kube: Kube) -> Iterator[MakeNamespace]:
    """Makes restricted namespaces, deleted after the test."""
    made: list[str] = []

    def make() -> str:
        name = f"harness-{secrets.token_hex(4)}"
        kube.apply(namespace_manifest(name))
        made.append(name)
        return name

    yield make
    for name in made:
        kube.delete_soon("namespace", name)


@pytest.fixture
def namespace(make_namespace: MakeNamespace) -> str:
    """A namespace of this test's own."""
    return make_namespace()


@pytest.fixture
def lone_stage(
    kube: Kube, crds: None, servers: Servers, namespace: str, make_database: MakeDatabase, broker: BrokerUnderTest
) -> Stage:
    """A stage in a namespace of its own, where nothing runs."""
    return _stage(kube, servers, namespace, make_database, broker)


@pytest.fixture(scope="session")
def operated_namespace(kube: Kube, crds: None) -> Iterator[str]:
    """A namespace in which the chart's operator runs."""
    name = f"harness-{secrets.token_hex(4)}"
    kube.apply(namespace_manifest(name))
    try:
        install(kube, name)
        yield name
    except AssertionError as error:
        pytest.fail(f"{error}\n{diagnostics.of(kube, name)}")
    finally:
        kube.delete_soon("namespace", name)


@pytest.fixture
def stage(
    kube: Kube, servers: Servers, operated_namespace: str, make_database: MakeDatabase, broker: BrokerUnderTest
) -> Iterator[Stage]:
    """A stage in the shared namespace, where the chart's operator runs; what it applied goes afterwards."""
    made = _stage(kube, servers, operated_namespace, make_database, broker)
    yield made
    made.clear()


@pytest.fixture
def shop(
    kube: Kube, crds: None, servers: Servers, namespace: str, make_database: MakeDatabase, broker: BrokerUnderTest
) -> Iterator[Shop]:
    """In ``namespace``: all that the whole chart wants to find."""
    with opened(kube, servers, namespace, make_database, broker) as made:
        yield made


@pytest.fixture
def keda(kube: Kube) -> None:
    """The cluster has KEDA, and its metrics API answers: without it nobody scales beyond one."""
    if kube.path("/apis/keda.sh/v1alpha1") is None:
        missing("KEDA")
    try:
        poll(lambda: _external_metrics(kube), seconds=60, what="KEDA's metrics API")
    except AssertionError:
        missing("KEDA's metrics API (kubectl get apiservice v1beta1.external.metrics.k8s.io)")


def _external_metrics(kube: Kube) -> bool:
    served = kube.path("/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.external.metrics.k8s.io") or {}
    conditions = served.get("status", {}).get("conditions", ())
    return [each["status"] for each in conditions if each["type"] == "Available"] == ["True"]


@pytest.fixture
def make_local_operator(kube: Kube, servers: Servers, tmp_path: Path) -> Iterator[MakeLocalOperator]:
    """Starts an operator on this machine for a namespace; ended after the test."""
    if not servers.direct:
        missing("a way from this machine to the cluster's addresses, which the operator's Jobs are given")
    made: list[LocalOperator] = []
    with contextlib.ExitStack() as proxies:

        def make(namespace: str, **settings: str) -> LocalOperator:
            single = kube.config.get()
            assert single is not None
            operator = LocalOperator(namespace, tmp_path, proxies.enter_context(ApiProxy(single)), settings)
            made.append(operator)
            operator.start()
            return operator

        yield make
        for operator in made:
            if operator.process is not None and operator.process.poll() is None:
                operator.kill()


def _stage(kube: Kube, servers: Servers, namespace: str, make_database: MakeDatabase, broker: BrokerUnderTest) -> Stage:
    made = Stage(
        kube, servers, namespace, order=make_database(("order",)), waybill=make_database(("waybill",)), broker=broker
    )
    made.topology()
    return made

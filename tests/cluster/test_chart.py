"""The chart installed by helm on others' broker and databases: orders become waybills, upgrades lose nothing."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import httpx
import psycopg
import pytest
import yaml
from psycopg import sql

from chart_support import render
from cluster.in_cluster import Servers
from cluster.kube import Kube
from cluster.operators import TAG, helm, merged
from conftest import MakeDatabase, missing
from letter_support import connected
from outhaul import Message, Outbox
from outhaul_infra.broker_users import USERS
from support import BrokerUnderTest, poll

CHART = Path(__file__).parents[2] / "helm" / "outhaul"
ORDER = {"customer": "Ada", "lines": [{"sku": "kettle", "quantity": 2, "unit_price_cents": 1999}]}
VALUES: dict[str, Any] = {
    # They are the whole cluster's, and other tests use them at the same time.
    "crds": {"install": False},
    "images": {name: {"tag": TAG} for name in ("order", "waybill", "operator")},
    "keda": {"enabled": False},
    "functions": {"order": {"replicas": 1}},
    "topology": {"schedule": "* * * * *"},
}


@dataclass(frozen=True, slots=True)
class Shop:
    """A namespace with the Secrets that the chart names, and what stands behind them."""

    kube: Kube
    servers: Servers
    namespace: str
    databases: dict[str, str]
    roles: dict[str, str]
    broker: BrokerUnderTest

    def upgrade(self, values: dict[str, Any] | None = None) -> None:
        given = {"schema": {name: self._roles_of(name) for name in ("order", "waybill")}}
        helm(
            "upgrade",
            "--install",
            "outhaul",
            str(CHART),
            "--namespace",
            self.namespace,
            "--wait",
            "--wait-for-jobs",
            "--timeout=170s",
            "--values=-",
            stdin=yaml.safe_dump(merged(merged(VALUES, given), values or {})),
        )

    def _roles_of(self, name: str) -> dict[str, str]:
        return {"functionRole": self.roles[name], "operatorRole": self.roles[f"{name}-operator"]}

    def jobs(self) -> dict[str, str]:
        """Name and uid of each Job of the release, but for the CronJob's."""
        found = self.kube.all("jobs", self.namespace, labels="app.kubernetes.io/instance=outhaul")
        own = [job["metadata"] for job in found if "ownerReferences" not in job["metadata"]]
        return {meta["name"]: meta["uid"] for meta in own}

    def http(self, function: str, port: int) -> httpx.Client:
        host, at = replace(self.servers, namespace=self.namespace).way(f"outhaul-{function}", port)
        return httpx.Client(base_url=f"http://{host}:{at}", timeout=20, trust_env=False)

    def rows(self, database: str, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.databases[database]) as conn:
            return conn.execute(query.encode()).fetchall()


@pytest.fixture
def shop(
    kube: Kube, crds: None, servers: Servers, namespace: str, make_database: MakeDatabase, broker: BrokerUnderTest
) -> Iterator[Shop]:
    databases, roles, urls = {}, {}, {}
    for function in ("order", "waybill"):
        databases[function] = url = make_database(())
        for identity in (f"{function}-owner", function, f"{function}-operator"):
            roles[identity], urls[identity] = _role(servers, url)
        with psycopg.connect(url, autocommit=True) as conn:
            name = sql.Identifier(urlsplit(url).path[1:])
            conn.execute(
                sql.SQL("ALTER DATABASE {} OWNER TO {}").format(name, sql.Identifier(roles[f"{function}-owner"]))
            )
    made = Shop(kube, servers, namespace, databases, roles, broker)
    users = _broker_users(made)
    for function in ("order", "waybill"):
        _secret(made, f"{function}-database", {"url": urls[function]})
        _secret(made, f"{function}-database-owner", {"url": urls[f"{function}-owner"]})
        _secret(made, f"{function}-broker", {"url": users[function]["url"]})
    _secret(made, "topology-broker", users["topology"])
    _secret(made, "keda-broker", _apart(users["keda"]["management-url"]))
    yield made
    # Namespaces of failed tests are told of before they go; the functions must not outlive their databases.
    helm("uninstall", "outhaul", "--namespace", namespace, "--ignore-not-found", "--wait")
    for function, url in databases.items():
        with psycopg.connect(url, autocommit=True) as conn:
            for identity in (f"{function}-owner", function, f"{function}-operator"):
                conn.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(roles[identity])))
                conn.execute(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(sql.Identifier(roles[identity])))
                conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(roles[identity])))


def _role(servers: Servers, database: str) -> tuple[str, str]:
    """A role of its own, and the database's URL for it as pods need it."""
    name, password = f"test_{secrets.token_hex(6)}", secrets.token_hex(8)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(password)))
    parts = urlsplit(servers.inside(database))
    host = parts.netloc.rpartition("@")[2]
    return name, urlunsplit(parts._replace(netloc=f"{name}:{password}@{host}"))


def _broker_users(shop: Shop) -> dict[str, dict[str, str]]:
    """The Secrets' entries of each user, made with the rights that the deployment gives it."""
    entries = {}
    with httpx.Client(base_url=shop.broker.management_url, timeout=30, trust_env=False) as api:
        for user in USERS:
            name, password = f"{shop.namespace}-{user.identity}", secrets.token_hex(8)
            body = {"password": password, "tags": ",".join(user.tags)}
            api.put(f"/api/users/{name}", json=body).raise_for_status()
            rights = {"configure": user.configure, "write": user.write, "read": user.read}
            api.put(f"/api/permissions/{quote(shop.broker.vhost)}/{name}", json=rights).raise_for_status()
            urls = {"url": shop.broker.amqp_url, "management-url": shop.broker.management_url}
            entries[user.identity] = {
                key: _as_user(shop.servers.inside(url), name, password) for key, url in urls.items()
            }
    return entries


def _apart(url: str) -> dict[str, str]:
    """As KEDA takes it: the address without credentials, and those beside it."""
    parts = urlsplit(url)
    host = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return {"host": host, "username": parts.username or "", "password": parts.password or ""}


def _as_user(url: str, name: str, password: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{name}:{password}@{parts.netloc.rpartition('@')[2]}"))


def _secret(shop: Shop, name: str, entries: dict[str, str]) -> None:
    shop.kube.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": entries},
        namespace=shop.namespace,
    )


def _place(http: httpx.Client, number: int) -> str:
    """One order, asked for again by its key until it is taken."""

    def placed() -> str | None:
        try:
            answer = http.post("/orders", json=ORDER, headers={"Idempotency-Key": f"order-{number}"})
        except httpx.TransportError:
            return None
        return str(answer.json()["order_id"]) if answer.status_code == 201 else None

    order_id = poll(placed, seconds=60, what=f"order {number}")
    assert order_id is not None
    return order_id


def _orders_during(upgrade: Callable[[], None], shop: Shop, *, first: int) -> int:
    """Place orders until after the upgrade; how many. A port-forward ends with its pod: then they come after it."""
    over = threading.Event()

    def place() -> int:
        with shop.http("order", 8080) as http:
            number = first
            while not over.is_set() or number < first + 20:
                _place(http, number)
                number += 1
        return number - first

    with ThreadPoolExecutor(1) as pool:
        placing = pool.submit(place) if shop.servers.direct else None
        try:
            upgrade()
        finally:
            over.set()
        return (placing or pool.submit(place)).result(120)


def _settled(shop: Shop, orders: int) -> None:
    """Until each order has exactly one waybill, and nothing waits to be sent."""

    def whole() -> bool:
        made = [order for (order,) in shop.rows("waybill", "SELECT order_id FROM waybills")]
        assert len(made) == len(set(made))
        return len(made) == orders and not shop.rows("order", "SELECT FROM outbox")

    poll(whole, seconds=90, what=f"{orders} waybills")
    placed = {order for (order,) in shop.rows("order", "SELECT order_id FROM orders")}
    assert placed == {order for (order,) in shop.rows("waybill", "SELECT order_id FROM waybills")}


@pytest.mark.timeout(900)
def test_it_installs_upgrades_and_goes_and_no_order_is_lost(shop: Shop) -> None:
    shop.upgrade()
    first = shop.jobs()
    assert {name.rpartition("-")[0] for name in first} == {
        "outhaul-schema-order",
        "outhaul-schema-waybill",
        "outhaul-topology",
    }
    with shop.http("order", 8080) as http:
        for number in range(20):
            _place(http, number)
        _settled(shop, 20)
        assert "Phase:          Succeeded" in helm("test", "outhaul", "--namespace", shop.namespace)

        shop.upgrade()
        assert shop.jobs() == first, "an upgrade that changes nothing runs nothing"

        orders = 20 + _orders_during(
            lambda: shop.upgrade(
                {"functions": {"order": {"settings": {"OUTHAUL_SENDER_LEASE": "70s"}}}, "log": {"level": "warning"}}
            ),
            shop,
            first=20,
        )
        assert shop.jobs() == first
        _settled(shop, orders)
        with connected(shop.broker) as queues:
            assert queues.depth("outhaul.waybill.dlq") == 0

        shop.upgrade({"topology": {"backoffLimit": 13, "nodesTimeout": "6m"}})
        newer = shop.jobs()
        assert {name.rpartition("-")[0] for name in newer.keys() - first.keys()} == {"outhaul-topology"}
        assert len(newer) == 3

    helm("uninstall", "outhaul", "--namespace", shop.namespace, "--wait")
    kinds = "deployments,jobs,cronjobs,services,serviceaccounts,roles,rolebindings,networkpolicies,configmaps,pods"
    ours = ("--namespace", shop.namespace, "--selector=app.kubernetes.io/instance=outhaul", "--output=name")
    # The CronJob's Jobs go with it, a little later.
    poll(lambda: not shop.kube.kubectl("get", kinds, *ours), seconds=60, what="nothing left")


@pytest.mark.timeout(600)
def test_what_somebody_changed_by_hand_is_put_back(shop: Shop) -> None:
    shop.upgrade({"operator": {"enabled": False}, "functions": {"enabled": False}})
    vhost = quote(shop.broker.vhost)
    with httpx.Client(base_url=shop.broker.management_url, timeout=30, trust_env=False) as api:
        path = f"/api/policies/{vhost}/outhaul.waybill"
        assert api.get(path).json()["definition"]["max-length"] == 1_000_000
        changed = {"pattern": "^outhaul\\.waybill$", "definition": {"max-length": 5}, "priority": 50}
        api.put(path, json=changed).raise_for_status()
        poll(
            lambda: api.get(path).json()["definition"].get("max-length") == 1_000_000,
            seconds=150,
            what="the policy as it was declared",
        )


@pytest.mark.timeout(900)
def test_consumers_come_with_the_backlog_and_go_with_it(shop: Shop) -> None:
    """From none to several and back to none; and some run while the broker does not tell how much waits."""
    if shop.kube.path("/apis/keda.sh/v1alpha1") is None:
        pytest.skip("the cluster has no KEDA")
    # Without it nobody scales beyond one.
    try:
        poll(lambda: _external_metrics(shop.kube), seconds=60, what="KEDA's metrics API")
    except AssertionError:
        missing("KEDA's metrics API (kubectl get apiservice v1beta1.external.metrics.k8s.io)")
    keda = {
        "enabled": True,
        "virtualHost": shop.broker.vhost,
        "maxReplicas": 3,
        "messagesPerReplica": 1000,
        "pollingInterval": 2,
        "cooldownPeriod": 18,
        "scaleDownStabilizationSeconds": 0,
    }
    # One message a transaction, so that the backlog lasts long enough to be seen.
    slowly = {"OUTHAUL_CONSUMER_BATCH_SIZE": "1"}
    values = {"keda": keda, "operator": {"enabled": False}, "functions": {"waybill": {"settings": slowly}}}
    shop.upgrade(values)

    def replicas() -> int:
        found = shop.kube.read("deployments", shop.namespace, "outhaul-waybill")
        assert found is not None
        return int(found["spec"].get("replicas", 1))

    poll(lambda: replicas() == 0, seconds=120, what="no consumer while nothing waits")
    burst = 30_000
    with psycopg.connect(shop.databases["order"]) as conn:
        outbox = Outbox(exchange="outhaul.events")
        for _ in range(burst // 1000):
            outbox.add(conn, *(_message() for _ in range(1000)))
    poll(lambda: replicas() == 3, seconds=120, what="as many consumers as there may be")
    consumed = "SELECT count(*), count(DISTINCT order_id) FROM waybills"
    poll(lambda: shop.rows("waybill", consumed) == [(burst, burst)], seconds=300, what=f"{burst} waybills")
    poll(lambda: replicas() == 0, seconds=180, what="no consumer when all is done")
    assert shop.rows("waybill", "SELECT count(*) FROM inbox") == [(burst,)]
    with connected(shop.broker) as queues:
        assert (queues.depth("outhaul.waybill"), queues.depth("outhaul.waybill.dlq")) == (0, 0)

    # A queue that is missing is to KEDA what a broker is whose API does not answer.
    shop.upgrade(merged(values, {"keda": {"queue": "no.such.queue"}}))
    poll(lambda: replicas() == 2, seconds=120, what="the consumers of the fallback")
    shop.upgrade(values)
    poll(lambda: replicas() == 0, seconds=180, what="none again")


def _external_metrics(kube: Kube) -> bool:
    served = kube.path("/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.external.metrics.k8s.io") or {}
    conditions = served.get("status", {}).get("conditions", ())
    return [each["status"] for each in conditions if each["type"] == "Available"] == ["True"]


def _message() -> Message:
    order = str(uuid4())
    lines = [{"sku": "kettle", "quantity": 1, "unit_price_cents": 1999}]
    return Message(
        type="dev.outhaul.order.created.v1",
        routing_key="order.created",
        aggregate_id=order,
        data={"order_id": order, "customer": "Ada", "lines": lines},
    )


def test_every_object_is_what_the_api_server_takes(kube: Kube, crds: None, namespace: str) -> None:
    """Every switch on, by a server-side dry run: fields that it does not know are errors."""
    installed = kube.kubectl("get", "crds", "--output=name")
    everything = {
        "crds": {"install": False},
        "keda": {"enabled": "scaledobjects.keda.sh" in installed, "caSecret": "ca"},
        "monitoring": {
            "podMonitor": {"enabled": "podmonitors.monitoring.coreos.com" in installed},
            "prometheusRule": {"enabled": "prometheusrules.monitoring.coreos.com" in installed},
        },
        "functions": {"order": {"autoscaling": {"enabled": True}}},
        "alerts": {"webhookUrl": "http://alerts"},
        "tls": {part: {"caSecret": {"name": "ca"}, "clientSecret": "own"} for part in ("broker", "database")},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "priorityClassName": "system-cluster-critical",
    }
    documents = render(everything, namespace=namespace)
    said = kube.kubectl(
        "apply",
        "--server-side",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
        stdin=yaml.safe_dump_all(documents),
    )
    assert len(said.splitlines()) == len(documents)
    assert "Warning" not in said

"""What the chart wants to find: a namespace with databases, roles, broker users and their Secrets."""

from __future__ import annotations

import base64
import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import httpx
import psycopg
import yaml
from psycopg import sql

from cluster.in_cluster import Servers
from cluster.kube import Kube
from cluster.operators import CHART, TAG, helm, merged
from cluster.stage import ALLOWED, Stage
from conftest import MakeDatabase
from outhaul_infra.broker_users import USERS
from support import BrokerUnderTest

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

    def upgrade(self, values: dict[str, Any] | None = None, *, wait: bool = True) -> str:
        """Install or upgrade, and what helm says; ``wait``: until all is ready and the Jobs are done.

        Raises AssertionError.
        """
        given = {"schema": {name: self._roles_of(name) for name in ("order", "waybill")}}
        return helm(
            "upgrade",
            "--install",
            "outhaul",
            str(CHART),
            "--namespace",
            self.namespace,
            *(("--wait", "--wait-for-jobs", "--timeout=170s") if wait else ()),
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

    def secret(self, name: str, entries: dict[str, str], *, allowed: bool = False) -> None:
        """Make or change one; ``allowed``: the operator may read it."""
        metadata = {"name": name, "labels": ALLOWED if allowed else {}}
        self.kube.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": entries},
            namespace=self.namespace,
        )

    def entries(self, secret: str) -> dict[str, str]:
        """What a Secret holds."""
        found = self.kube.read("secrets", self.namespace, secret)
        assert found is not None, f"no Secret {secret}"
        return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}

    def stage(self) -> Stage:
        """To apply custom resources and to see what they say."""
        databases = self.databases
        return Stage(
            self.kube,
            self.servers,
            self.namespace,
            order=databases["order"],
            waybill=databases["waybill"],
            broker=self.broker,
        )

    def http(self, function: str, port: int) -> httpx.Client:
        """A client of that function's Service."""
        host, at = replace(self.servers, namespace=self.namespace).way(f"outhaul-{function}", port)
        return httpx.Client(base_url=f"http://{host}:{at}", timeout=20, trust_env=False)

    def rows(self, database: str, query: str) -> list[tuple[Any, ...]]:
        """What the query finds in the order or the waybill database."""
        with psycopg.connect(self.databases[database]) as conn:
            return conn.execute(query.encode()).fetchall()


@contextlib.contextmanager
def opened(
    kube: Kube, servers: Servers, namespace: str, make_database: MakeDatabase, broker: BrokerUnderTest
) -> Iterator[Shop]:
    """One with all that the chart wants to find; the release and the roles go afterwards."""
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
        made.secret(f"{function}-database", {"url": urls[function]})
        made.secret(f"{function}-database-owner", {"url": urls[f"{function}-owner"]})
        made.secret(f"{function}-broker", {"url": users[function]["url"]})
        made.secret(f"{function}-operator", {"url": urls[f"{function}-operator"]}, allowed=True)
    made.secret("topology-broker", users["topology"])
    made.secret("operator-broker", users["operator"], allowed=True)
    made.secret("keda-broker", _apart(users["keda"]["management-url"]))
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

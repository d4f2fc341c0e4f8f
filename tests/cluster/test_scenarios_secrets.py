"""Secrets: which are used, that a changed one is, and that nobody reads a password who may not read the Secret."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit, urlunsplit

import httpx

from cluster.kube import Kube
from cluster.operators import install
from cluster.stage import Stage

# With all that a URL has to escape.
WORD = "s3cr/t@{}:#?"


@dataclass(slots=True)
class Login:
    """A user of database and broker; ``words``: every password that it ever had."""

    stage: Stage
    name: str = field(default_factory=lambda: f"login_{secrets.token_hex(4)}")
    words: list[str] = field(default_factory=list)

    def renew(self) -> None:
        """A new password, and nobody stays logged in with the old one."""
        word = WORD.format(secrets.token_hex(6))
        verb = "ALTER" if self.words else "CREATE"
        self.stage.query(self.stage.order, f"{verb} ROLE {self.name} LOGIN SUPERUSER PASSWORD '{word}'")
        with self._broker() as api:
            body = {"password": word, "tags": "administrator"}
            api.put(f"/api/users/{self.name}", json=body).raise_for_status()
            rights = {"configure": ".*", "write": ".*", "read": ".*"}
            vhost = quote(self.stage.broker.vhost, safe="")
            api.put(f"/api/permissions/{vhost}/{self.name}", json=rights).raise_for_status()
        self.words.append(word)
        self.out()

    def out(self) -> None:
        """End its sessions."""
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s"
        self.stage.query(self.stage.order, ended, self.name)
        with self._broker() as api:
            api.delete(f"/api/connections/username/{self.name}")

    def drop(self) -> None:
        """It is no more."""
        self.stage.query(self.stage.order, f"ALTER ROLE {self.name} NOLOGIN")
        self.out()
        self.stage.query(self.stage.order, f"DROP ROLE {self.name}")
        with self._broker() as api:
            api.delete(f"/api/users/{self.name}").raise_for_status()

    def url(self, url: str) -> str:
        """That address, for pods and by this login."""
        parts = urlsplit(self.stage.servers.inside(url))
        at = f"{self.name}:{quote(self.words[-1], safe='')}@{parts.hostname}:{parts.port}"
        return urlunsplit(parts._replace(netloc=at))

    def brokers(self) -> dict[str, str]:
        """The entries of a broker's Secret."""
        given = self.stage.broker
        return {"url": self.url(given.amqp_url), "management-url": self.url(given.management_url)}

    def _broker(self) -> httpx.Client:
        return httpx.Client(base_url=self.stage.broker.management_url, timeout=30, trust_env=False)


@contextmanager
def login(stage: Stage) -> Iterator[Login]:
    """One with a password, for as long as it lasts."""
    made = Login(stage)
    made.renew()
    try:
        yield made
    finally:
        stage.clear()
        made.drop()


def test_a_secret_without_the_label_is_not_used_and_its_condition_says_how_to_allow_it(stage: Stage) -> None:
    stage.record(5)
    outbox = stage.outbox()
    secret = stage.secret("order-database", {"url": stage.servers.inside(stage.order)}, allowed=False)
    label = "outhaul.dev/allow"
    stage.kube.kubectl("label", "secret", secret, f"{label}-", "--namespace", stage.namespace)
    stage.says("outbox", outbox, "DatabaseReachable", "False", rf"{secret} does not carry the label {label}")
    stage.shows("outbox", outbox, ready="False")
    stage.kube.kubectl("label", "secret", secret, f"{label}=true", "--namespace", stage.namespace)
    stage.shows("outbox", outbox, ready="True", pending="0")


def test_a_databases_rotated_secret_is_picked_up(stage: Stage) -> None:
    with login(stage) as user:
        outbox = stage.outbox()
        stage.secret("order-database", {"url": user.url(stage.order)})
        stage.shows("outbox", outbox, ready="True")
        user.renew()
        stage.says("outbox", outbox, "DatabaseReachable", "False", "password authentication failed")
        assert "CredentialsRefused" in stage.tells(outbox, "password authentication failed")
        stage.record(5)
        stage.secret("order-database", {"url": user.url(stage.order)})
        stage.shows("outbox", outbox, ready="True", pending="0")


def test_a_brokers_rotated_secret_is_picked_up(stage: Stage) -> None:
    with login(stage) as user:
        outbox = stage.outbox()
        stage.secret("broker", user.brokers())
        stage.shows("outbox", outbox, ready="True")
        user.renew()
        stage.says("outbox", outbox, "BrokerReachable", "False", "refused")
        stage.tells(outbox, "CredentialsRefused: BrokerReachable")
        stage.record(5)
        stage.secret("broker", user.brokers())
        stage.shows("outbox", outbox, ready="True", pending="0")
        stage.tells(outbox, "ResendSucceeded: round 1 sent 5 rows")


def test_no_password_is_in_anything_that_can_be_read_but_the_secret(lone_stage: Stage) -> None:
    """Neither while all goes well, nor in what is said of logins that are refused and of addresses that are none."""
    stage = lone_stage
    install(stage.kube, stage.namespace, log={"level": "debug"})
    with login(stage) as user:
        stage.record(5)
        stage.letters(2)
        outbox, inbox = stage.outbox(), stage.inbox()
        ways = {"order-database": stage.order, "waybill-database": stage.waybill}

        def hand_out() -> None:
            for purpose, url in ways.items():
                stage.secret(purpose, {"url": user.url(url)})
            stage.secret("broker", user.brokers())

        hand_out()
        stage.tells(outbox, "ResendSucceeded: round 1 sent 5 rows")
        stage.reaches("resend", stage.resend("all", outbox, parked=True), "Succeeded")
        stage.reaches("redrive", stage.redrive("look", inbox, dryRun=True), "Succeeded")
        user.renew()
        for kind, name in (("outbox", outbox), ("inbox", inbox)):
            stage.says(kind, name, "DatabaseReachable", "False", "password authentication failed")
            stage.says(kind, name, "BrokerReachable", "False", "refused")
        hand_out()
        for kind, name in (("outbox", outbox), ("inbox", inbox)):
            stage.says(kind, name, "DatabaseReachable", "True")
            stage.says(kind, name, "BrokerReachable", "True")
        for purpose, url in ways.items():
            stage.secret(purpose, {"url": without_port(user.url(url))})
        stage.secret("broker", {key: without_port(url) for key, url in user.brokers().items()})
        for name in (outbox, inbox):
            stage.tells(name, "SecretInvalid: DatabaseReachable")
            stage.tells(name, "SecretInvalid: BrokerReachable")
        told = readable(stage.kube, stage.namespace)
        records = [str(stage.query(url, "SELECT * FROM runs")) for url in ways.values()]
        written = spellings(user.words)

    # What should be there is: else nothing would be found for want of anything to search.
    for part, words in {"the logs": "made", "the objects": "secretKeyRef", "the events": "CredentialsRefused"}.items():
        assert words in told[part]
    assert "outhaul_operator_troubles_total" in told["the metrics"]
    lines = [(part, line) for part, text in told.items() for line in text.splitlines()]
    leaks = {(part, line[:300]) for part, line in lines if any(word in line for word in written)}
    assert leaks == set()
    assert not any(word in record for word in written for record in records)


def without_port(url: str) -> str:
    """An address that is none, though the login in it is right."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:none"))


def spellings(words: list[str]) -> set[str]:
    """Each as it is, as a URL has it, and as a Secret has it; at any offset of a text, base64 has three forms."""
    given = {each for word in words for each in (word, quote(word, safe=""))}
    coded = {
        base64.b64encode(b" " * shift + each.encode())[shift + 1 : -4].decode() for each in given for shift in range(3)
    }
    return given | coded


def readable(kube: Kube, namespace: str) -> dict[str, str]:
    """All that people may read who may not read Secrets, by what it is."""
    pods = [pod["metadata"]["name"] for pod in kube.all("pods", namespace)]
    operator = next(name for name in pods if name.startswith("outhaul-operator"))
    kinds = "outboxes,inboxes,resends,redrives,jobs,pods,deployments,configmaps"
    at = f"/api/v1/namespaces/{namespace}/pods/{operator}:8082/proxy/metrics"
    return {
        "the logs": "".join(kube.kubectl("logs", name, "--namespace", namespace) for name in pods),
        "the objects": kube.kubectl("get", kinds, "--namespace", namespace, "--output=yaml"),
        "the descriptions": kube.kubectl("describe", kinds, "--namespace", namespace),
        "the events": kube.kubectl("get", "events", "--namespace", namespace, "--output=yaml"),
        "the metrics": kube.kubectl("get", "--raw", at),
    }

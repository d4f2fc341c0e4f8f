"""The stack's settings: what is taken, what is refused and how, before anything is made."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra_graph import config, passwords, settings
from outhaul.errors import ConfigurationError
from outhaul_infra.passwords import PASSWORDS
from outhaul_infra.setting_fields import camel, quantity_value, setting_of
from outhaul_infra.settings import SCALARS, SECTIONS, StackSettings, read_settings
from outhaul_infra.settings_checks import check

ROOT = Path(__file__).parent.parent.parent
MODES: list[dict[str, Any]] = [
    {"rabbitmq": {"mode": "statefulset"}, "postgres": {"mode": "statefulset"}},
    {"rabbitmq": {"mode": "cluster-operator"}, "postgres": {"mode": "cloudnative-pg", "replicas": 3}},
    {
        "rabbitmq": {"mode": "external", "host": "mq.example.com", "managementUrl": "https://mq.example.com"},
        "postgres": {"mode": "external", "host": "pg.example.com", "port": 6432},
    },
]


def test_nothing_but_the_passwords_must_be_said() -> None:
    taken = settings()
    assert (taken.rabbitmq.mode, taken.rabbitmq.replicas, taken.postgres.mode) == ("statefulset", 3, "statefulset")
    assert taken.retain_data
    assert not taken.protect
    assert not taken.tls.enabled
    assert not taken.keda.install


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode["rabbitmq"]["mode"])
def test_every_mode_is_taken(mode: dict[str, Any]) -> None:
    assert settings(**mode).postgres.mode == mode["postgres"]["mode"]


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_the_stacks_in_the_repository_are_taken_once_they_have_passwords(stack: str) -> None:
    written = yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text())["config"]
    given = {key.removeprefix("outhaul:"): value for key, value in written.items()}
    taken = settings(**given)
    assert taken.protect == (stack == "prod")
    whole = config(**given)
    unset = {key: value for key, value in whole.items() if key.removeprefix("outhaul:") not in PASSWORDS}
    with pytest.raises(ConfigurationError, match=r"python -m outhaul_infra\.secrets"):
        check(read_settings(unset))


WRONG: list[tuple[str, Any, str]] = [
    # section.key, what was written, what the message must say
    ("cluster.kubeconfig", 3, "write a path"),
    ("cluster.context", "", "write a context's name"),
    ("namespaces.app", "Out_haul", "lower-case letters"),
    ("namespaces.data", "-x", "lower-case letters"),
    ("namespaces.data", "outhaul", "another than namespaces.app"),
    ("namespaces.monitoring", "a" * 64, "63 at most"),
    ("namespaces.create", "false", "without quotes"),
    ("rabbitmq.mode", "statefullset", "did you mean statefulset?"),
    ("rabbitmq.mode", "external", "must be set where rabbitmq.mode is external"),
    ("rabbitmq.replicas", 2, "bear no more failures than 1"),
    ("rabbitmq.replicas", 0, "from 1 to 9"),
    ("rabbitmq.replicas", True, "from 1 to 9"),
    ("rabbitmq.replicas", 3.0, "from 1 to 9"),
    ("rabbitmq.image", "rabbit mq", "repository:tag"),
    ("rabbitmq.storage", "10 Gi", "with its unit"),
    ("rabbitmq.storage", "0", "with its unit"),
    ("rabbitmq.storageClass", "Fast SSD", "lower-case letters"),
    ("rabbitmq.memory", "2GB", "with its unit"),
    ("rabbitmq.memory", "128Mi", "256Mi or more"),
    ("rabbitmq.cpu", [], "with its unit"),
    ("rabbitmq.graceSeconds", 5, "from 30 to 3600"),
    ("rabbitmq.extraConfig", "heartbeat = 30", "a mapping"),
    ("rabbitmq.extraConfig", {"listeners.tcp": "none"}, "written by the stack itself"),
    ("rabbitmq.extraConfig", {"Heart Beat": 30}, "rabbitmq.conf's keys"),
    ("rabbitmq.extraConfig", {"heartbeat": "30\nlisteners.tcp = none"}, "one line"),
    ("rabbitmq.extraConfig", {"heartbeat": [30]}, "one line"),
    ("rabbitmq.host", "mq", "belongs to rabbitmq.mode external"),
    ("rabbitmq.host", "amqp://mq", "without scheme"),
    ("rabbitmq.port", 5672, "belongs to rabbitmq.mode external"),
    ("rabbitmq.port", 70000, "1 to 65535"),
    ("rabbitmq.managementUrl", "http://user:pass@mq:15672", "without user and password"),
    ("rabbitmq.managementUrl", "http://mq:15672", "belongs to rabbitmq.mode external"),
    ("rabbitmq.virtualHost", "shop", "external alone"),
    ("rabbitmq.virtualHost", "", "write a name"),
    ("postgres.mode", "cnpg", "cloudnative-pg"),
    ("postgres.mode", "external", "must be set where postgres.mode is external"),
    ("postgres.replicas", 2, "set postgres.mode cloudnative-pg"),
    ("postgres.image", "", "repository:tag"),
    ("postgres.operatorImage", "a b", "repository:tag"),
    ("postgres.storage", "ten", "with its unit"),
    ("postgres.storageClass", 3, "lower-case letters"),
    ("postgres.memory", "64Mi", "128Mi or more"),
    ("postgres.cpu", -1, "with its unit"),
    ("postgres.maxConnections", 10, "from 20 to 10000"),
    ("postgres.maxConnections", 50, "can take 123 connections"),
    ("postgres.host", "pg.example.com", "belongs to postgres.mode external"),
    ("postgres.port", 5432, "belongs to postgres.mode external"),
    ("tls.enabled", 1, "without quotes"),
    ("tls.enabled", True, "must name an issuer"),
    ("tls.certificates", "certmanager", "did you mean cert-manager?"),
    ("tls.issuer", "ca", "has no effect; set tls.enabled"),
    ("tls.issuerKind", "issuer", "did you mean Issuer?"),
    ("tls.rabbitmqSecret", "x", "has no effect"),
    ("tls.postgresSecret", "x", "has no effect"),
    ("tls.authoritySecret", "x", "has no effect"),
    ("keda.enabled", "yes", "without quotes"),
    ("keda.install", "yes", "without quotes"),
    ("keda.namespace", "Keda", "lower-case letters"),
    ("keda.version", "latest", "write it as"),
    ("keda.chart", "", "a name or a path"),
    ("keda.repository", "charts", "http[s] URL"),
    ("images.registry", "https://registry/", "without a slash"),
    ("images.tag", "a b", "write a tag"),
    ("images.pullPolicy", "always", "did you mean Always?"),
    ("order.replicas", 0, "from 1 to 100"),
    ("order.maxReplicas", 101, "from 1 to 100"),
    ("order.maxReplicas", 1, "is below order.replicas=2"),
    ("order.maxReplicas", 20, "lower order.replicas or maxReplicas"),
    ("order.poolSize", 0, "from 1 to 500"),
    ("waybill.minReplicas", -1, "from 0 to 100"),
    ("waybill.minReplicas", 9, "above waybill.maxReplicas=5"),
    ("waybill.maxReplicas", 0, "from 1 to 500"),
    ("waybill.maxReplicas", 100, "waybill.maxReplicas or a poolSize"),
    ("waybill.poolSize", 501, "from 1 to 500"),
    ("chart.path", "", "write a path"),
    ("chart.keepCrds", "no", "without quotes"),
    ("chart.monitors", "yes", "without quotes"),
    ("chart.values", ["x"], "a mapping"),
    ("chart.values", {"functions": {"order": {"replicas": 30}}}, "can take 459 connections"),
    ("chart.values", {"keda": {"maxReplicas": 30}}, "can take 423 connections"),
    ("retainData", "no", "without quotes"),
    ("protect", 1, "without quotes"),
    ("networkPolicies", "on", "without quotes"),
    ("waitSeconds", 1, "from 30 to 7200"),
]


@pytest.mark.parametrize(("key", "value", "words"), WRONG, ids=lambda value: str(value)[:40])
def test_what_cannot_be_used_is_refused_with_its_name_and_the_way_out(key: str, value: Any, words: str) -> None:
    section, _, name = key.partition(".")
    with pytest.raises(ConfigurationError) as refused:
        settings(**{section: {name: value} if name else value})
    assert words in str(refused.value)
    assert refused.value.setting.startswith("outhaul:")


def test_every_setting_has_a_row_in_the_table_above() -> None:
    every = {camel(each.name) for each in SCALARS}
    every |= {f"{section}.{camel(each.name)}" for section, kind in SECTIONS for each in fields(kind)}
    assert {key for key, _, _ in WRONG} == every


TOGETHER: list[tuple[dict[str, Any], str, str]] = [
    ({"tls": {"enabled": True, "certificates": "secrets"}}, "tls.authoritySecret", "must name a Secret in the app"),
    (
        {"tls": {"enabled": True, "certificates": "secrets", "authoritySecret": "ca"}},
        "tls.rabbitmqSecret",
        "must name a Secret in the data",
    ),
    (
        {"tls": {"enabled": True, "certificates": "secrets", "authoritySecret": "ca", "rabbitmqSecret": "r"}},
        "tls.postgresSecret",
        "must name a Secret in the data",
    ),
    (MODES[2] | {"tls": {"enabled": True}}, "tls.authoritySecret", "must name a Secret"),
    (
        {"rabbitmq": {"mode": "external", "host": "mq"}},
        "rabbitmq.managementUrl",
        "must be set where rabbitmq.mode is external",
    ),
    (
        {
            "rabbitmq": {"mode": "external", "host": "mq", "managementUrl": "http://mq:15672"},
            "tls": {"enabled": True, "issuer": "ca"},
        },
        "rabbitmq.managementUrl",
        "must be https://",
    ),
    ({"keda": {"install": True, "enabled": False}}, "keda.install", "brings what nothing uses"),
    ({"keda": {"install": True, "namespace": "outhaul"}}, "keda.namespace", "a namespace of KEDA's own"),
    ({"rabbitmq": []}, "rabbitmq", "a mapping"),
    ({"rabbitmq": {"mod": "external"}}, "rabbitmq.mod", "did you mean mode?"),
    ({"rabbitmq": {"storage_class": "x"}}, "rabbitmq.storage_class", "did you mean storageClass?"),
    ({"rabitmq": {}}, "rabitmq", "did you mean rabbitmq?"),
    ({"retaindata": True}, "retaindata", "did you mean retainData?"),
    ({"qqqq": True}, "qqqq", "there are:"),
]


@pytest.mark.parametrize(("written", "key", "words"), TOGETHER, ids=[key for _, key, _ in TOGETHER])
def test_what_is_wrong_together_is_refused(written: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        settings(**written)
    assert refused.value.setting == f"outhaul:{key}"
    assert words in refused.value.remedy


def test_keys_of_other_projects_are_none_of_our_business() -> None:
    read_settings({"kubernetes:context": "kind", "aws:region": "x"})


def test_an_empty_value_takes_the_default() -> None:
    assert settings(rabbitmq={"storageClass": None, "replicas": None}).rabbitmq.replicas == 3


def test_a_password_in_plain_text_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"stands in plain text.*config set --secret rabbitmqOrderPassword"):
        read_settings({"outhaul:rabbitmqOrderPassword": "long enough as it is"})


@pytest.mark.parametrize("password", ["", "short", "with a space in it", "nicht-aus-ASCII-ü", "line\nbreak-in-it"])
def test_a_password_that_would_break_somewhere_is_refused_and_not_shown(password: str) -> None:
    key = "outhaul:postgresOrderPassword"
    with pytest.raises(ConfigurationError, match="--renew postgresOrderPassword") as refused:
        read_settings({key: password}, secret_keys=frozenset({key}))
    assert not password or password not in str(refused.value)


def test_a_missing_password_names_itself_and_how_many_more() -> None:
    whole = config()
    del whole["outhaul:rabbitmqAdminPassword"], whole["outhaul:postgresOrderPassword"]
    with pytest.raises(ConfigurationError, match=r"rabbitmqAdminPassword.*nor are 1 others"):
        check(read_settings(whole, secret_keys=frozenset(whole)))


def test_no_password_is_shown_by_the_settings() -> None:
    shown = repr(settings())
    assert not any(password in shown for password in passwords().values())


def test_an_external_broker_needs_neither_cookie_nor_administrator() -> None:
    whole = config(**MODES[2])
    del whole["outhaul:rabbitmqErlangCookie"], whole["outhaul:rabbitmqAdminPassword"]
    check(read_settings(whole, secret_keys=frozenset(whole)))


@pytest.mark.parametrize(("text", "value"), [("500m", 0.5), ("2", 2), ("1.5Gi", 1.5 * 2**30), ("10M", 1e7)])
def test_amounts_are_worth_what_kubernetes_says(text: str, value: float) -> None:
    assert quantity_value(text) == value


def test_every_setting_says_what_it_means() -> None:
    for kind in [StackSettings, *(kind for _, kind in SECTIONS)]:
        for each in fields(kind):
            if "setting" in each.metadata:
                assert setting_of(each.metadata).meaning
                assert setting_of(each.metadata).form

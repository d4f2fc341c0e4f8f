"""The whole graph that the Pulumi program registers, as data, in every mode."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml

from infra_graph import Graph, config, entries, graph_of, passwords, settings, texts
from infra_modes import EVERY, EXTERNAL, GIVEN_TLS, OPERATORS, TLS
from outhaul_infra import program
from outhaul_infra.broker_config import check_extra_config
from outhaul_infra.settings_page import page
from outhaul_waybill.service import CONSUMER
from outhaul_waybill.topology import QUEUE

ROOT = Path(__file__).parent.parent.parent
every = pytest.mark.parametrize("name", EVERY)


@functools.cache
def _graph(written: str) -> Graph:
    return graph_of(settings(**json.loads(written)))


def graph(written: Mapping[str, Any] | None = None) -> Graph:
    """Of a configuration; the same one is looked at by many tests."""
    return _graph(json.dumps(written or {}, sort_keys=True))


def pods(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pods' specifications that we write ourselves."""
    return [each["spec"]["template"]["spec"] for each in objects if each["kind"] == "StatefulSet"]


@every
def test_the_graph_is_the_same_every_time_and_in_a_preview(name: str) -> None:
    once, again = graph(EVERY[name]), graph_of(settings(**EVERY[name]), preview=True)
    assert once.outputs == again.outputs
    assert {each.urn: each.inputs for each in once.resources} == {each.urn: each.inputs for each in again.resources}


@every
def test_every_urn_is_unique_and_every_object_has_a_name_of_our_own(name: str) -> None:
    made = graph(EVERY[name])
    urns = [each.urn for each in made.resources]
    assert len(urns) == len(set(urns))
    for each in made.objects():
        assert re.fullmatch(r"[a-z0-9-]+", each["metadata"]["name"]), each
        assert "generateName" not in each["metadata"]


@every
def test_what_an_object_needs_is_registered_before_it(name: str) -> None:
    seen: set[str] = set()
    for each in graph(EVERY[name]).resources:
        assert {urn for urn in each.depends_on if urn.startswith("urn:")} <= seen, each.name
        seen.add(each.urn)


@every
def test_every_object_is_in_one_of_the_namespaces_and_made_by_the_explicit_provider(name: str) -> None:
    made = graph(EVERY[name])
    allowed = {"outhaul", "outhaul-data", "shop", "shop-data"}
    for each in made.resources:
        if each.is_object:
            assert re.search("::kubernetes(-finding)?::", each.provider)
        if each.is_object and not each.type.endswith(":Namespace"):
            assert each.manifest["metadata"]["namespace"] in allowed
    for name_of_provider in ("kubernetes", "kubernetes-finding"):
        provider = made.resource(name_of_provider).inputs
        assert provider["enableConfigMapMutable"] == "true"
        assert provider["enableSecretMutable"] == "true"


@every
def test_no_secret_stands_in_plain_anywhere(name: str) -> None:
    """Not in an object's inputs but as a Secret's marked data, and not in the outputs."""
    secret = set(passwords().values())
    made = graph(EVERY[name])
    assert not any(password in text for password in secret for text in texts(made.outputs))
    for each in made.resources:
        assert not any(password in text for password in secret for text in texts(each.inputs)), each.name
        if each.type.endswith(":Secret"):
            assert "data" in each.secret_inputs, each.name


@every
def test_every_component_is_of_our_kind_and_every_object_has_one_as_parent(name: str) -> None:
    made = graph(EVERY[name])
    components = {each.urn for each in made.resources if each.type.startswith("outhaul:infra:")}
    for each in made.resources:
        if each.is_object:
            assert each.parent in components, each.name


@every
def test_the_pods_bear_the_restricted_level_and_no_token(name: str) -> None:
    for pod in pods(graph(EVERY[name]).objects()):
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*pod["initContainers"], *pod["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]


@every
def test_both_custom_resources_come_last_and_are_awaited(name: str) -> None:
    made = graph(EVERY[name])
    [chart] = [each for each in made.resources if each.type.endswith("helm.sh/v4:Chart") and each.name == "outhaul"]
    for kind in ("Outbox", "Inbox"):
        [resource] = [each for each in made.resources if each.type == f"kubernetes:outhaul.dev/v1alpha1:{kind}"]
        assert chart.urn in resource.depends_on
        assert resource.manifest["metadata"]["annotations"] == {"pulumi.com/waitFor": "condition=Ready"}
        named = {"databaseSecretRef", "brokerSecretRef"}
        for reference in named:
            secret = made.one("Secret", resource.manifest["spec"][reference]["name"])
            assert secret["metadata"]["labels"]["outhaul.dev/allow"] == "true"


def test_only_what_the_operator_reads_carries_its_label() -> None:
    labelled = [
        each["metadata"]["name"]
        for each in graph().objects()
        if each["kind"] == "Secret" and "outhaul.dev/allow" in each["metadata"]["labels"]
    ]
    assert sorted(labelled) == ["inbox-database", "operator-broker", "outbox-database"]


def test_the_inbox_names_the_consumer_and_the_queue_that_the_function_has() -> None:
    spec = graph().one("Inbox", "waybills")["spec"]
    assert (spec["consumer"], spec["queue"]) == (CONSUMER, QUEUE)


def test_every_identity_gets_its_own_url_alone() -> None:
    made, secret = graph(), passwords()
    whose = {
        "order-database": "postgresOrderPassword",
        "order-database-owner": "postgresOrderOwnerPassword",
        "outbox-database": "postgresOrderOperatorPassword",
        "waybill-database": "postgresWaybillPassword",
        "waybill-database-owner": "postgresWaybillOwnerPassword",
        "inbox-database": "postgresWaybillOperatorPassword",
        "order-broker": "rabbitmqOrderPassword",
        "waybill-broker": "rabbitmqWaybillPassword",
        "topology-broker": "rabbitmqTopologyPassword",
        "operator-broker": "rabbitmqOperatorPassword",
        "keda-broker": "rabbitmqKedaPassword",
    }
    there = [each["metadata"]["name"] for each in made.objects() if each["kind"] == "Secret"]
    assert {name for name in there if not name.startswith("outhaul-")} == set(whose)
    assert entries(made.one("Secret", "keda-broker")) == {
        "host": "http://outhaul-rabbitmq.outhaul-data.svc:15672",
        "username": "outhaul-keda",
        "password": secret["rabbitmqKedaPassword"],
    }
    assert set(entries(made.one("Secret", "topology-broker"))) == {"url", "management-url"}
    assert (
        "@outhaul-postgres.outhaul-data.svc:5432/outhaul_order" in entries(made.one("Secret", "order-database"))["url"]
    )


def test_an_edited_line_of_broker_configuration_changes_the_pods_annotation_and_nothing_else_of_the_nodes() -> None:
    before = graph().one("StatefulSet", "outhaul-rabbitmq")
    edited = graph({"rabbitmq": {"extraConfig": {"log.console.level": "debug"}}})
    after = edited.one("StatefulSet", "outhaul-rabbitmq")
    annotations = [each["spec"]["template"]["metadata"].pop("annotations") for each in (before, after)]
    assert before == after
    assert annotations[0]["outhaul.dev/config"] != annotations[1]["outhaul.dev/config"]
    assert annotations[0]["outhaul.dev/users"] == annotations[1]["outhaul.dev/users"]
    assert "log.console.level = debug" in edited.one("ConfigMap", "outhaul-rabbitmq-config")["data"]["rabbitmq.conf"]


def test_a_rotated_password_restarts_the_server_that_keeps_it_and_no_other() -> None:
    def annotations(rotated: Mapping[str, str]) -> dict[str, Any]:
        made = graph_of(settings(**rotated))
        return {
            each["metadata"]["name"]: each["spec"]["template"]["metadata"]["annotations"]
            for each in made.objects()
            if each["kind"] == "StatefulSet"
        }

    before = annotations({})
    broker = annotations({"rabbitmqWaybillPassword": "quite-another-password"})
    server = annotations({"postgresOrderOwnerPassword": "quite-another-password"})
    assert broker["outhaul-postgres"] == before["outhaul-postgres"] != server["outhaul-postgres"]
    assert server["outhaul-rabbitmq"] == before["outhaul-rabbitmq"] != broker["outhaul-rabbitmq"]


def test_a_rotated_password_restarts_the_pods_that_read_it_at_their_start() -> None:
    def annotations(made: Graph) -> Any:
        return made.resource("outhaul").inputs["values"]["podAnnotations"]

    assert annotations(graph()) == annotations(graph_of(settings()))
    assert annotations(graph()) != annotations(graph_of(settings(postgresOrderPassword="quite-another-password")))


@pytest.mark.parametrize("retain", [True, False])
def test_data_stays_exactly_where_it_is_asked_to(retain: bool) -> None:
    made = graph({"retainData": retain})
    assert made.resource("namespace-data").retain_on_delete is retain
    assert made.resource("namespace-app").retain_on_delete is False
    for name in ("outhaul-rabbitmq", "outhaul-postgres"):
        policy = made.one("StatefulSet", name)["spec"]["persistentVolumeClaimRetentionPolicy"]
        assert policy == {"whenDeleted": "Retain" if retain else "Delete", "whenScaled": "Retain"}


def test_what_holds_data_is_protected_where_asked_and_never_replaced_for_its_volumes() -> None:
    for protect in (False, True):
        made = graph({"protect": protect})
        guarded = {each.name for each in made.resources if each.protect}
        assert guarded == (
            {"namespace-data", "statefulset-outhaul-rabbitmq", "statefulset-outhaul-postgres"} if protect else set()
        )
    assert graph().resource("statefulset-outhaul-rabbitmq").ignore_changes == ("spec.volumeClaimTemplates",)


def test_three_nodes_leave_one_at_a_time_within_their_grace_and_one_node_just_leaves() -> None:
    three = graph({"rabbitmq": {"graceSeconds": 90}}).one("StatefulSet", "outhaul-rabbitmq")["spec"]["template"]["spec"]
    command = three["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert command.startswith("rabbitmq-upgrade await_online_quorum_plus_one -t 60")
    assert three["terminationGracePeriodSeconds"] == 90
    one = graph({"rabbitmq": {"replicas": 1}})
    assert "lifecycle" not in one.one("StatefulSet", "outhaul-rabbitmq")["spec"]["template"]["spec"]["containers"][0]
    assert not [each for each in one.objects() if each["kind"] == "PodDisruptionBudget"]


def test_a_node_is_ready_once_all_is_served_and_stays_so_while_amqp_is() -> None:
    [server] = graph().one("StatefulSet", "outhaul-rabbitmq")["spec"]["template"]["spec"]["containers"]
    assert server["startupProbe"]["tcpSocket"] == {"port": "management"}
    assert server["readinessProbe"]["tcpSocket"] == {"port": "amqp"}


def test_spreading_is_soft_so_that_one_node_bears_all() -> None:
    for pod in pods(graph().objects()):
        assert {each["whenUnsatisfiable"] for each in pod["topologySpreadConstraints"]} == {"ScheduleAnyway"}


def test_nodes_that_an_operator_makes_are_told_apart_by_the_labels_it_gives_them() -> None:
    """Beside the name it writes `part-of: rabbitmq`, whatever the resource's own labels are."""
    spec = graph(OPERATORS).one("RabbitmqCluster", "outhaul-rabbitmq")["spec"]["override"]["statefulSet"]["spec"]
    for constraint in spec["template"]["spec"]["topologySpreadConstraints"]:
        assert constraint["labelSelector"]["matchLabels"] == {"app.kubernetes.io/name": "outhaul-rabbitmq"}


def test_with_given_certificates_every_way_is_encrypted() -> None:
    made = graph(GIVEN_TLS)
    assert entries(made.one("Secret", "order-broker"))["url"].startswith("amqps://")
    assert entries(made.one("Secret", "keda-broker"))["host"].startswith("https://")
    assert entries(made.one("Secret", "waybill-database"))["url"].endswith("?sslmode=verify-full")
    mounted = [
        volume["secret"]["secretName"]
        for pod in pods(made.objects())
        for volume in pod["volumes"]
        if "secret" in volume
    ]
    assert {"mq-tls", "pg-tls"} <= set(mounted)
    containers = [each["name"] for pod in pods(made.objects()) for each in pod["containers"]]
    assert sorted(containers) == ["postgres", "rabbitmq", "reload"]
    assert sorted(each["name"] for pod in pods(graph().objects()) for each in pod["containers"]) == [
        "postgres",
        "rabbitmq",
    ]
    values = made.resource("outhaul").inputs["values"]
    assert values["tls"]["broker"]["caSecret"] == values["tls"]["database"]["caSecret"] == {"name": "authority"}
    assert not [each for each in made.objects() if each["kind"] == "Certificate"]


def test_cert_manager_is_asked_for_each_server_by_all_its_names_and_for_the_authority() -> None:
    made = {each["metadata"]["name"]: each for each in graph(TLS).objects() if each["kind"] == "Certificate"}
    assert set(made) == {"outhaul-rabbitmq-tls", "outhaul-postgres-tls", "outhaul-authority"}
    assert "outhaul-rabbitmq.outhaul-data.svc" in made["outhaul-rabbitmq-tls"]["spec"]["dnsNames"]
    assert made["outhaul-authority"]["metadata"]["namespace"] == "outhaul"
    operators = {each["metadata"]["name"]: each for each in graph(OPERATORS | TLS).objects()}
    assert "outhaul-postgres-rw.outhaul-data.svc" in operators["outhaul-postgres-tls"]["spec"]["dnsNames"]


def test_external_servers_are_called_and_not_made() -> None:
    made = graph(EXTERNAL)
    kinds = {each["kind"] for each in made.objects()}
    assert kinds == {"Namespace", "Secret", "Outbox", "Inbox"}
    assert "@pg.example.com:6432/outhaul_waybill" in entries(made.one("Secret", "inbox-database"))["url"]
    topology = entries(made.one("Secret", "topology-broker"))
    assert topology["management-url"].endswith("@mq.example.com/api-here")
    policies = made.resource("outhaul").inputs["values"]["networkPolicies"]
    assert policies == {"broker": {"ports": [5672], "managementPorts": [443]}, "database": {"ports": [6432]}}


def test_keda_is_brought_only_where_asked_and_told_whom_to_ask() -> None:
    assert "Chart keda" not in graph().names()
    brought = graph({"keda": {"install": True}}).resource("namespace-keda")
    assert brought.manifest["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    none = graph({"keda": {"enabled": False}})
    assert none.resource("outhaul").inputs["values"]["keda"]["enabled"] is False
    assert "Secret secret-keda-broker" not in none.names()


def test_the_chart_takes_every_value_that_the_stack_gives() -> None:
    known = yaml.safe_load((ROOT / "helm/outhaul/values.yaml").read_text())

    def unknown(given: Mapping[str, Any], there: Mapping[str, Any], path: str) -> list[str]:
        found = []
        for key, value in given.items():
            if key not in there:
                found.append(f"{path}.{key}")
            elif isinstance(value, Mapping) and there[key]:  # an empty one takes any key
                found += unknown(value, there[key], f"{path}.{key}")
        return found

    for written in EVERY.values():
        assert unknown(graph(written).resource("outhaul").inputs["values"], known, "values") == []


def test_the_values_of_the_settings_win_over_the_stacks_own() -> None:
    made = graph({"chart": {"values": {"keda": {"pollingInterval": 2, "enabled": False}}}})
    keda = made.resource("outhaul").inputs["values"]["keda"]
    assert (keda["pollingInterval"], keda["enabled"], keda["maxReplicas"]) == (2, False, 5)


def test_the_outputs_are_commands_for_the_cluster_that_was_named() -> None:
    made = graph({"cluster": {"context": "kind-here"}, "namespaces": {"app": "shop"}})
    assert made.outputs["isAllWell"] == "kubectl --context kind-here --namespace shop get outboxes,inboxes"
    assert set(graph(EXTERNAL).outputs) == {"isAllWell", "orders", "waybills"}


def test_where_the_consumer_may_be_at_zero_its_output_says_what_to_do() -> None:
    assert (
        graph()
        .outputs["waybills"]
        .endswith("  # while nothing waits in the queue there is no pod to forward to: place an order first")
    )
    for always in ({"waybill": {"minReplicas": 1}}, {"keda": {"enabled": False}}):
        assert graph(always).outputs["waybills"].endswith(" 8081")


def test_the_program_refuses_before_it_registers_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "CONFIG", _Context(config(rabbitmq={"replicas": 2})))
    monkeypatch.setattr(program, "is_config_secret", lambda key: key.endswith(("Password", "Cookie")))
    monkeypatch.setattr(program, "deploy", lambda *_, **__: pytest.fail("registered"))
    with pytest.raises(pulumi.RunError, match=r"outhaul:rabbitmq\.replicas=2"):
        program.run(ROOT)


class _Context:
    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values

    def get(self) -> Mapping[str, str]:
        return self.values


def test_the_page_of_settings_is_the_generated_one() -> None:
    assert (ROOT / "docs/deployment-settings.md").read_text() == page()


def test_pulumi_keeps_an_environment_of_its_own_out_of_the_repository() -> None:
    project = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())
    assert project["runtime"]["options"] == {"toolchain": "uv", "virtualenv": ".pv"}
    assert ".pv/" in (ROOT / ".gitignore").read_text().splitlines()
    assert (ROOT / project["main"] / "__main__.py").exists()


def test_extra_configuration_may_be_numbers_and_truths() -> None:
    check_extra_config(
        {"heartbeat": 30, "management.load_definitions": False, "vm_memory_high_watermark.relative": 0.5}
    )

"""The chart rendered for many values: what must hold of every one of them, and what each switch switches."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from chart_support import (
    CHART,
    EVERY_API,
    MATRIX,
    ROOT,
    Document,
    containers,
    environment,
    helm,
    nested,
    of_kind,
    pod_specs,
    render,
)
from outhaul.broker_admin.topology_load import topology_from
from outhaul_operator.adapters.permissions import PERMISSIONS
from outhaul_operator.config import OperatorConfig
from outhaul_operator.metrics import OperatorMetrics
from outhaul_order.config import OrderConfig
from outhaul_waybill import topology
from outhaul_waybill.config import WaybillConfig

pytestmark = pytest.mark.needs("helm")


@pytest.fixture(scope="module", params=MATRIX)
def rendered(request: pytest.FixtureRequest) -> list[Document]:
    return render(MATRIX[request.param])


def test_every_object_has_a_name_of_its_own_a_namespace_and_labels(rendered: list[Document]) -> None:
    seen = set()
    for document in rendered:
        meta = document["metadata"]
        key = (document["kind"], meta.get("namespace"), meta["name"])
        assert key not in seen
        seen.add(key)
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", meta["name"]), key
        assert meta["labels"]["app.kubernetes.io/part-of"] == "outhaul"
        assert meta["labels"]["app.kubernetes.io/instance"] == "outhaul"
        if not document["kind"].startswith(("Cluster", "Custom")):
            assert meta["namespace"] in {"shop", "b", "c"}, key


def test_every_pod_is_restricted(rendered: list[Document]) -> None:
    for where, pod in pod_specs(rendered):
        assert pod["enableServiceLinks"] is False, where
        assert pod["automountServiceAccountToken"] is where.startswith("Deployment outhaul-operator"), where
        assert pod["securityContext"]["runAsNonRoot"] is True, where
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, where
            assert container["resources"]["requests"]["cpu"], where
            assert container["resources"]["limits"]["memory"], where


def test_selectors_meet_their_pods_and_every_mount_its_volume(rendered: list[Document]) -> None:
    for name, deployment in of_kind(rendered, "Deployment").items():
        spec = deployment["spec"]
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items(), name
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in of_kind(rendered, "Deployment").values()]
    for service in of_kind(rendered, "Service").values():
        assert [labels for labels in pods if service["spec"]["selector"].items() <= labels.items()]
    for where, pod in pod_specs(rendered):
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        assert {mount["name"] for each in containers(pod) for mount in each.get("volumeMounts", ())} <= volumes, where


def test_no_password_is_in_the_chart(rendered: list[Document]) -> None:
    """Secrets are named, never made; but for the one switch that KEDA reads from a Secret alone."""
    assert [each["stringData"] for each in of_kind(rendered, "Secret").values()] in ([], [{"tls": "enable"}])
    for where, pod in pod_specs(rendered):
        for container in containers(pod):
            for name, value in environment(container).items():
                assert "@" not in value, (where, name)


def test_nothing_rests_on_hooks(rendered: list[Document]) -> None:
    hooked = [each for each in rendered if "helm.sh/hook" in each["metadata"].get("annotations", {})]
    assert [each["metadata"]["annotations"]["helm.sh/hook"] for each in hooked] in ([], ["test"])


def test_nothing_is_random() -> None:
    assert render(MATRIX["everything"]) == render(MATRIX["everything"])


def test_definitions_are_kept_unless_they_are_to_go() -> None:
    kept = of_kind(render(), "CustomResourceDefinition")
    gone = of_kind(render({"crds": {"keep": False}}), "CustomResourceDefinition")
    assert len(kept) == len(gone) == 4
    for path in (CHART / "files" / "crds").glob("*.yaml"):
        written = yaml.safe_load(path.read_text())
        name = written["metadata"]["name"]
        assert kept[name]["spec"] == gone[name]["spec"] == written["spec"]
        assert kept[name]["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
        assert "annotations" not in gone[name]["metadata"]
    assert not of_kind(render({"crds": {"install": False}}), "CustomResourceDefinition")


def verbs(rules: list[Document]) -> dict[tuple[str, str], set[str]]:
    return {
        (group, resource): set(rule["verbs"])
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_the_operator_may_do_what_it_does_and_nothing_else() -> None:
    used = {(each.group, each.resource): set(each.verbs) for each in PERMISSIONS}
    [role] = of_kind(render(), "Role").values()
    assert verbs(role["rules"]) == used
    documents = render({"operator": {"clusterWide": True}})
    [role] = of_kind(documents, "ClusterRole").values()
    assert verbs(role["rules"]) == used
    assert not of_kind(documents, "Role")


def test_the_operator_has_a_role_in_each_namespace_it_watches_and_nowhere_else() -> None:
    documents = render({"operator": {"namespaces": ["shop", "b"]}})
    roles = [each for each in documents if each["kind"] == "Role"]
    assert [role["metadata"]["namespace"] for role in roles] == ["b", "shop"]
    bindings = [each for each in documents if each["kind"] == "RoleBinding"]
    assert [binding["subjects"][0]["namespace"] for binding in bindings] == ["shop", "shop"]
    jobs = [
        each for each in documents if each["metadata"]["name"] == "outhaul-job" and each["kind"] == "ServiceAccount"
    ]
    assert [each["metadata"]["namespace"] for each in jobs] == ["b", "shop"]
    assert all(each["automountServiceAccountToken"] is False for each in jobs)
    [operator] = of_kind(documents, "Deployment")["outhaul-operator"]["spec"]["template"]["spec"]["containers"]
    assert environment(operator)["OUTHAUL_OPERATOR_NAMESPACES"] == "b,shop"


def test_what_is_auto_is_on_where_the_cluster_has_it() -> None:
    kinds = {"ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule"}
    assert not kinds & {each["kind"] for each in render()}
    assert kinds <= {each["kind"] for each in render(apis=EVERY_API)}
    off = {"keda": {"enabled": False}, "monitoring": {"podMonitor": {"enabled": False}}}
    left = {each["kind"] for each in render(off, apis=EVERY_API)}
    assert left & kinds == {"PrometheusRule"}


def test_the_replicas_are_left_to_whoever_scales() -> None:
    plain = of_kind(render(), "Deployment")
    assert (plain["outhaul-order"]["spec"]["replicas"], plain["outhaul-waybill"]["spec"]["replicas"]) == (2, 1)
    documents = render({"functions": {"order": {"autoscaling": {"enabled": True}}}}, apis=EVERY_API)
    scaled = of_kind(documents, "Deployment")
    assert "replicas" not in scaled["outhaul-order"]["spec"]
    assert "replicas" not in scaled["outhaul-waybill"]["spec"]
    [scaler] = of_kind(documents, "ScaledObject").values()
    [trigger] = scaler["spec"]["triggers"]
    assert scaler["spec"]["scaleTargetRef"]["name"] in scaled
    assert trigger["metadata"]["queueName"] == topology.QUEUE
    assert trigger["metadata"]["protocol"] == "http"
    assert of_kind(documents, "HorizontalPodAutoscaler")["outhaul-order"]["spec"]["maxReplicas"] == 6


def test_an_eviction_may_take_some_pods_of_a_function_and_never_all() -> None:
    documents = render(nested("functions.order", {"maxUnavailable": "25%"}))
    budgets = of_kind(documents, "PodDisruptionBudget")
    assert {name: each["spec"]["maxUnavailable"] for name, each in budgets.items()} == {
        "outhaul-order": "25%",
        "outhaul-waybill": 1,
    }
    for name, deployment in of_kind(documents, "Deployment").items():
        if name in budgets:
            assert budgets[name]["spec"]["selector"] == deployment["spec"]["selector"]


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder with what Secrets of type kubernetes.io/tls hold."""
    authority = trustme.CA()
    own = authority.issue_cert("outhaul")
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    own.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    own.private_key_pem.write_to_path(tmp_path / "tls.key")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "config", "port"),
    [("order", OrderConfig, 8080), ("waybill", WaybillConfig, 8081), ("operator", OperatorConfig, 8082)],
)
@pytest.mark.parametrize("values", ["defaults", "everything"])
def test_each_program_reads_what_the_chart_tells_it(
    name: str, config: Any, port: int, values: str, certificates: Path
) -> None:
    pod = of_kind(render(MATRIX[values]), "Deployment")[f"outhaul-{name}"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    told = environment(container)
    amqp = "amqps" if "OUTHAUL_AMQP_CA_FILE" in told else "amqp"
    url = {"AMQP": f"{amqp}://a:b@c/%2F", "DATABASE": "postgresql://a:b@c/d", "WEBHOOK": "http://a/b"}
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    for variable, value in told.items():
        if variable.endswith("_URL"):
            told[variable] = next(address for part, address in url.items() if part in variable)
        elif variable.endswith("_FILE"):
            folder, _, file = value.rpartition("/")
            assert folder in mounts
            told[variable] = str(certificates / file)
    read = config.from_environment(told)
    assert read.warnings == ()
    assert (read.http_host, read.http_port) == ("0.0.0.0", port)
    assert [each["containerPort"] for each in container["ports"]] == [port]


def test_a_setting_of_ones_own_reaches_its_program() -> None:
    documents = render(nested("functions.waybill.settings", {"OUTHAUL_CONSUMER_PREFETCH": "50"}))
    [container] = of_kind(documents, "Deployment")["outhaul-waybill"]["spec"]["template"]["spec"]["containers"]
    assert environment(container)["OUTHAUL_CONSUMER_PREFETCH"] == "50"


def test_images_are_named_by_registry_tag_and_digest() -> None:
    digest = "sha256:" + "a" * 64
    images = {"registry": "registry.example.com/team/", "order": {"digest": digest}, "waybill": {"tag": "7"}}
    documents = render({"images": images})
    found = {name: pod["containers"][0]["image"] for name, pod in pod_specs(documents)}
    assert found["Deployment outhaul-order"] == f"registry.example.com/team/outhaul/order@{digest}"
    assert found["Deployment outhaul-waybill"] == "registry.example.com/team/outhaul/waybill:7"
    assert found["Deployment outhaul-operator"] == "registry.example.com/team/outhaul/operator:0.1.0"


def test_another_releases_names_do_not_collide() -> None:
    for release, begins in (("outhaul", "outhaul-"), ("blue", "blue-outhaul-"), ("a" * 53, "a" * 28 + "-outhaul-")):
        assert all(name.startswith(begins) for name in of_kind(render(release=release), "Deployment"))
    named = of_kind(render({"fullnameOverride": "shop"}), "Deployment")
    assert set(named) == {"shop-order", "shop-waybill", "shop-operator"}


def test_the_chart_carries_the_topology_that_the_consumer_declares() -> None:
    """Print it again by `python -P -m outhaul_waybill.topology > helm/outhaul/files/topology.json`."""
    declared = json.loads(of_kind(render(), "ConfigMap")["outhaul-topology"]["data"]["topology.json"])
    assert declared == topology.document()
    assert topology_from(declared) == topology.TOPOLOGY


def test_the_chart_carries_the_rules_of_the_library() -> None:
    """Copy them by `cp sdk/src/outhaul/rules/outhaul.rules.yml helm/outhaul/files/`."""
    rules = ROOT / "sdk" / "src" / "outhaul" / "rules" / "outhaul.rules.yml"
    assert (CHART / "files" / "outhaul.rules.yml").read_text() == rules.read_text()
    alone = {"keda": {"enabled": False}, "operator": {"enabled": False}}
    [made] = of_kind(render(alone, apis=EVERY_API), "PrometheusRule").values()
    assert made["spec"] == yaml.safe_load(rules.read_text())


@pytest.mark.needs("promtool")
def test_an_operator_that_does_not_report_is_told_of(tmp_path: Path) -> None:
    """For its own namespace: another release's operator does not stand in for it."""
    [made] = of_kind(render(apis=EVERY_API, namespace="shop"), "PrometheusRule").values()
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(made["spec"]))
    [objects] = [each.name for each in OperatorMetrics().instruments() if each.name == "outhaul_operator_objects"]

    def at(minute: int, *, fires: bool) -> dict[str, Any]:
        labels = {"namespace": "shop", "severity": "warning"}
        [group] = [each for each in made["spec"]["groups"] if each["name"] == "outhaul-operator"]
        [alert] = group["rules"]
        expected = [{"exp_labels": labels, "exp_annotations": alert["annotations"]}] if fires else []
        return {"eval_time": f"{minute}m", "alertname": alert["alert"], "exp_alerts": expected}

    series = [
        {"series": f'{objects}{{namespace="shop"}}', "values": "0x10 _x20"},
        {"series": f'{objects}{{namespace="elsewhere"}}', "values": "7x30"},
    ]
    case = {"interval": "1m", "input_series": series, "alert_rule_test": [at(9, fires=False), at(29, fires=True)]}
    (tmp_path / "case.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [case]}))
    tested = subprocess.run(
        ["promtool", "test", "rules", "case.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "### OuthaulOperatorAbsent" in (ROOT / "docs" / "runbooks.md").read_text()


@pytest.mark.needs("promtool")
def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    [made] = of_kind(render(apis=EVERY_API), "PrometheusRule").values()
    assert [group["name"] for group in made["spec"]["groups"]][-1] == "outhaul-scaling"
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump(made["spec"]))
    checked = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    dashboard = json.loads(of_kind(render(), "ConfigMap")["outhaul-dashboard"]["data"]["outhaul.json"])
    known = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    known += (CHART / "files" / "outhaul.rules.yml").read_text()
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(shown) > 10
    for expression in shown:
        for metric in re.findall(r"\bouthaul[_:]\w+", expression):
            name = re.sub(r"_(bucket|sum|count)$", "", metric)
            assert f"`{name}`" in known or f"record: {name}\n" in known, expression


def test_helm_finds_nothing_to_say() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))

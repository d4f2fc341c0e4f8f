"""Everything the stack can be told, read once into frozen values. Docs: docs/deployment-settings.md (generated)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, get_type_hints

from outhaul.errors import ConfigurationError
from outhaul_infra import setting_fields as of
from outhaul_infra.passwords import PASSWORDS

STATEFULSET: Final = "statefulset"
CLUSTER_OPERATOR: Final = "cluster-operator"
CLOUDNATIVE_PG: Final = "cloudnative-pg"
EXTERNAL: Final = "external"
CERT_MANAGER: Final = "cert-manager"
SECRETS: Final = "secrets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Which cluster the stack is brought up in."""

    kubeconfig: str | None = of.text(
        None, "kubeconfig file; unset: `KUBECONFIG`, else `~/.kube/config`", form="path", remedy="write a path"
    )
    context: str | None = of.text(
        None, "context in it; unset: its current one", form="name", remedy="write a context's name"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespaces:
    """Where things go: what can be made again, and the data apart from it."""

    app: str = of.kube_name("outhaul", "functions, operator, custom resources")
    data: str = of.kube_name("outhaul-data", "RabbitMQ and PostgreSQL; another than `app`")
    monitoring: str | None = of.kube_name(None, "from where the broker's metrics are scraped; unset: from nowhere")
    create: bool = of.flag(True, "false: both exist already, and stay when the stack goes")


@dataclass(frozen=True, slots=True, kw_only=True)
class RabbitMQ:
    """The broker."""

    mode: str = of.choice(
        (STATEFULSET, CLUSTER_OPERATOR, EXTERNAL),
        "made by this stack alone, by the RabbitMQ cluster operator that runs in the cluster, or there already",
        default=STATEFULSET,
    )
    replicas: int = of.whole(3, "nodes; odd, so that a majority is left when one is away", least=1, most=9)
    image: str = of.image("rabbitmq:4.3-management", "RabbitMQ 4.1 or newer with the management plugin")
    storage: str = of.quantity("10Gi", "volume of each node; fixed once it is made")
    storage_class: str | None = of.kube_name(None, "storage class of the volumes; unset: the cluster's default")
    memory: str = of.quantity("2Gi", "memory of each node, asked for and bound")
    cpu: str = of.quantity("500m", "processor time asked for by each node; not bound")
    grace_seconds: int = of.whole(
        120,
        "from asking a node to stop until it is killed; two thirds of it for a quorum to form without it",
        least=30,
        most=3600,
    )
    extra_config: dict[str, Any] = of.mapping(  # noqa: RUF009 - a field() with a factory
        "more lines of `rabbitmq.conf`; an edit rolls one node at a time", form="mapping of key to value"
    )
    host: str | None = of.host("`external`: where AMQP is served")
    port: int | None = of.port_or_none("`external`: its port; unset: 5672, with TLS 5671")
    management_url: str | None = of.text(
        None,
        "`external`: the management API, without user and password",
        form="http[s] URL",
        pattern=r"https?://[^@\s/]+(/[^@\s]*)?",
        remedy="write http://host:15672 (https:// for TLS), without user and password",
    )
    virtual_host: str = of.text(
        "/", "`external`: the virtual host; ours has `/`", form="name", pattern=r"[^\s]+", remedy="write a name or /"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """The two databases."""

    mode: str = of.choice(
        (STATEFULSET, CLOUDNATIVE_PG, EXTERNAL),
        "one server made by this stack, a cluster by the CloudNativePG operator that runs there, or there already",
        default=STATEFULSET,
    )
    replicas: int = of.whole(1, "`cloudnative-pg`: instances; a StatefulSet has one", least=1, most=9)
    image: str = of.image("postgres:18", "`statefulset`: PostgreSQL 18, Debian's variant")
    operator_image: str = of.image("ghcr.io/cloudnative-pg/postgresql:18", "`cloudnative-pg`: its own image")
    storage: str = of.quantity("20Gi", "volume of each instance; fixed once it is made")
    storage_class: str | None = of.kube_name(None, "storage class of the volumes; unset: the cluster's default")
    memory: str = of.quantity("1Gi", "memory of each instance, asked for and bound; a quarter of it are shared buffers")
    cpu: str = of.quantity("500m", "processor time asked for by each instance; not bound")
    max_connections: int = of.whole(
        200, "connections served; holds the functions' pools at their most", least=20, most=10_000
    )
    host: str | None = of.host("`external`: where PostgreSQL is served")
    port: int | None = of.port_or_none("`external`: its port; unset: 5432")


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """TLS between all parts."""

    enabled: bool = of.flag(False, "broker, its management API and PostgreSQL are spoken to by TLS alone")
    certificates: str = of.choice(
        (CERT_MANAGER, SECRETS), "made by cert-manager, or given as Secrets", default=CERT_MANAGER
    )
    issuer: str | None = of.kube_name(None, "`cert-manager`: the issuer's name")
    issuer_kind: str = of.choice(("Issuer", "ClusterIssuer"), "`cert-manager`: its kind", default="ClusterIssuer")
    rabbitmq_secret: str | None = of.kube_name(
        None, "`secrets`: Secret in the data namespace with `tls.crt`, `tls.key`, `ca.crt` for RabbitMQ"
    )
    postgres_secret: str | None = of.kube_name(None, "`secrets`: the same for PostgreSQL")
    authority_secret: str | None = of.kube_name(
        None, "Secret in the app namespace with the authority to trust as `ca.crt`; needed but for `cert-manager`"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KEDA:
    """What scales the waybill function on the depth of its queue."""

    enabled: bool = of.flag(True, "false: the waybill function has a fixed number of pods (`waybill.maxReplicas`)")
    install: bool = of.flag(False, "true: this stack brings KEDA; false: it is in the cluster already")
    namespace: str = of.kube_name("keda", "where KEDA runs")
    version: str = of.text(
        "2.20.2", "version of its chart", form="version", pattern=r"\d+\.\d+\.\d+", remedy="write it as 2.20.2"
    )
    chart: str = of.text("keda", "its chart: a name in `repository`, or a path", remedy="write a name or a path")
    repository: str = of.text(
        "https://kedacore.github.io/charts",
        "where its chart is",
        form="https URL",
        pattern=r"https?://\S+",
        remedy="write an http[s] URL",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Outhaul's own images."""

    registry: str | None = of.text(
        None,
        "before `outhaul/order`, `outhaul/waybill`, `outhaul/operator`",
        form="host[:port][/path]",
        pattern=r"[a-z0-9][-a-z0-9._/:]*[a-z0-9]",
        remedy="write it without a slash at its end, such as registry.example.com/team",
    )
    tag: str = of.text("dev", "their tag", form="tag", pattern=r"[\w][\w.-]{0,127}", remedy="write a tag")
    pull_policy: str = of.choice(("IfNotPresent", "Always", "Never"), "when nodes fetch them", default="IfNotPresent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The order function."""

    replicas: int = of.whole(2, "pods; with `maxReplicas` the fewest", least=1, most=100)
    max_replicas: int | None = of.whole_or_none(
        "pods under load, by the processor time they use (needs the metrics server); unset: always `replicas`",
        least=1,
        most=100,
    )
    pool_size: int = of.whole(8, "database connections of each pod's HTTP side", least=1, most=500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waybill:
    """The waybill function."""

    min_replicas: int = of.whole(0, "pods when the queue is empty", least=0, most=100)
    max_replicas: int = of.whole(5, "pods when it is long", least=1, most=500)
    pool_size: int = of.whole(8, "database connections of each pod's HTTP side", least=1, most=500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Outhaul's own chart."""

    path: str = of.text("helm/outhaul", "where it is, seen from the stack's folder", form="path", remedy="write a path")
    keep_crds: bool = of.flag(True, "`destroy` leaves the custom resource definitions, and so the users' resources")
    monitors: bool = of.flag(
        False, "PodMonitor and PrometheusRule; the Prometheus operator's definitions must be in the cluster"
    )
    values: dict[str, Any] = of.mapping(  # noqa: RUF009 - a field() with a factory
        "more of its values; they win over what this stack says"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSettings:
    """The stack, whole."""

    cluster: Cluster = field(default_factory=Cluster)
    namespaces: Namespaces = field(default_factory=Namespaces)
    rabbitmq: RabbitMQ = field(default_factory=RabbitMQ)
    postgres: Postgres = field(default_factory=Postgres)
    tls: TLS = field(default_factory=TLS)
    keda: KEDA = field(default_factory=KEDA)
    images: Images = field(default_factory=Images)
    order: Order = field(default_factory=Order)
    waybill: Waybill = field(default_factory=Waybill)
    chart: Chart = field(default_factory=Chart)
    retain_data: bool = of.flag(True, "`destroy` leaves the data's namespace and volumes")
    protect: bool = of.flag(False, "`destroy` refuses, and so does whatever would replace what holds data")
    network_policies: bool = of.flag(True, "the data's namespace takes connections from those who need it alone")
    wait_seconds: int = of.whole(900, "longest wait for each part to become ready", least=30, most=7200)
    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)


SECTIONS: Final = tuple(
    (each.name, kind)
    for each in fields(StackSettings)
    if isinstance(kind := get_type_hints(StackSettings)[each.name], type) and hasattr(kind, "__dataclass_fields__")
)
SCALARS: Final = tuple(each for each in fields(StackSettings) if "setting" in each.metadata)


def read_settings(config: Mapping[str, str], *, secret_keys: frozenset[str] = frozenset()) -> StackSettings:
    """From a stack's configuration: ``outhaul:`` keys to text, objects and scalars as JSON, as Pulumi hands them over.

    ``secret_keys`` are the keys that Pulumi keeps encrypted. Raises ConfigurationError naming the key and the way out.
    """
    prefix = f"{of.PROJECT}:"
    written = {key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)}
    sections = dict(SECTIONS)
    scalars = {of.camel(each.name): each for each in SCALARS}
    known = {*sections, *scalars, *PASSWORDS}
    values: dict[str, Any] = {}
    passwords: dict[str, str] = {}
    for key, given in written.items():
        if key not in known:
            raise ConfigurationError(f"{prefix}{key}", "…", of.nearest(key, known))
        if key in PASSWORDS:
            passwords[key] = _password(f"{prefix}{key}", given, encrypted=f"{prefix}{key}" in secret_keys)
        elif key in sections:
            values[key] = of.read_section(sections[key], f"{prefix}{key}", _parsed(given))
        else:
            each = scalars[key]
            values[each.name] = of.setting_of(each.metadata).check(f"{prefix}{key}", _parsed(given))
    return StackSettings(**values, passwords=passwords)


def _parsed(given: str) -> Any:
    try:
        return json.loads(given)
    except ValueError:
        return given


def _password(key: str, given: str, *, encrypted: bool) -> str:
    name = key.partition(":")[2]
    if not encrypted:
        raise ConfigurationError(key, "…", f"stands in plain text; write it by: pulumi config set --secret {name}")
    if len(given) < 12 or not given.isascii() or not given.isprintable() or " " in given:
        raise ConfigurationError(
            key,
            "…",
            "must be 12 printable ASCII characters or more without spaces; "
            f"make one by: python -m outhaul_infra.secrets --renew {name}",
        )
    return given

"""Settings that are each right and together wrong: refused before anything is made, with the way out."""

from __future__ import annotations

from collections.abc import Mapping

from outhaul.errors import ConfigurationError
from outhaul_infra import passwords
from outhaul_infra.broker_config import check_extra_config
from outhaul_infra.chart_values import chart_values
from outhaul_infra.setting_fields import PROJECT, quantity_value
from outhaul_infra.settings import CERT_MANAGER, EXTERNAL, SECRETS, STATEFULSET, StackSettings

# Beside a pod's pool: the sender's or the consumer's own connections, and tending; and per server the operator's, the
# schema Job's and a person's.
CONNECTIONS_BESIDE_THE_POOL = 4
CONNECTIONS_BESIDE_THE_FUNCTIONS = 15
PODS_MORE_IN_A_ROLL = 1  # the chart's maxSurge


def check(settings: StackSettings) -> StackSettings:
    """The same settings. Raises ConfigurationError for the first contradiction."""
    _namespaces(settings)
    _rabbitmq(settings)
    _postgres(settings)
    _tls(settings)
    _keda(settings)
    _order(settings)
    _connections(settings)
    _passwords(settings)
    return settings


def _refuse(key: str, value: object, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"{PROJECT}:{key}", value, remedy)


def _namespaces(settings: StackSettings) -> None:
    spaces = settings.namespaces
    if spaces.app == spaces.data:
        raise _refuse("namespaces.data", spaces.data, "must be another than namespaces.app, or data would go with it")
    if settings.keda.install and settings.keda.namespace in {spaces.app, spaces.data}:
        raise _refuse("keda.namespace", settings.keda.namespace, "must be a namespace of KEDA's own")


def _rabbitmq(settings: StackSettings) -> None:
    broker = settings.rabbitmq
    given: dict[str, str | int | None] = {"host": broker.host, "managementUrl": broker.management_url}
    if broker.mode == EXTERNAL:
        for key, value in given.items():
            if value is None:
                raise _refuse(f"rabbitmq.{key}", None, "must be set where rabbitmq.mode is external")
        if settings.tls.enabled and not (broker.management_url or "").startswith("https://"):
            raise _refuse("rabbitmq.managementUrl", broker.management_url, "must be https:// where tls.enabled is true")
        return
    for key, value in {**given, "port": broker.port}.items():
        if value is not None:
            raise _refuse(f"rabbitmq.{key}", value, f"belongs to rabbitmq.mode external, and the mode is {broker.mode}")
    if broker.virtual_host != "/":
        raise _refuse("rabbitmq.virtualHost", broker.virtual_host, "can be chosen in rabbitmq.mode external alone")
    if broker.replicas % 2 == 0:
        raise _refuse(
            "rabbitmq.replicas",
            broker.replicas,
            f"must be odd: {broker.replicas} nodes bear no more failures than {broker.replicas - 1}",
        )
    if quantity_value(broker.memory) < 256 * 2**20:
        raise _refuse("rabbitmq.memory", broker.memory, "must be 256Mi or more; a node alone takes about 150")
    check_extra_config(broker.extra_config)


def _postgres(settings: StackSettings) -> None:
    server = settings.postgres
    if server.mode == EXTERNAL:
        if server.host is None:
            raise _refuse("postgres.host", None, "must be set where postgres.mode is external")
        return
    for key, value in {"host": server.host, "port": server.port}.items():
        if value is not None:
            raise _refuse(f"postgres.{key}", value, f"belongs to postgres.mode external, and the mode is {server.mode}")
    if server.mode == STATEFULSET and server.replicas != 1:
        raise _refuse(
            "postgres.replicas", server.replicas, "a StatefulSet has one; for standbys set postgres.mode cloudnative-pg"
        )
    if quantity_value(server.memory) < 128 * 2**20:
        raise _refuse("postgres.memory", server.memory, "must be 128Mi or more")


def _tls(settings: StackSettings) -> None:
    tls = settings.tls
    own_broker, own_server = settings.rabbitmq.mode != EXTERNAL, settings.postgres.mode != EXTERNAL
    given = {
        "issuer": tls.issuer,
        "rabbitmqSecret": tls.rabbitmq_secret,
        "postgresSecret": tls.postgres_secret,
        "authoritySecret": tls.authority_secret,
    }
    if not tls.enabled:
        for key, value in given.items():
            if value is not None:
                raise _refuse(f"tls.{key}", value, "has no effect; set tls.enabled to true, or leave it out")
        return
    makes_certificates = tls.certificates == CERT_MANAGER and (own_broker or own_server)
    if makes_certificates and tls.issuer is None:
        raise _refuse("tls.issuer", None, "must name an issuer where tls.certificates is cert-manager")
    if not makes_certificates and tls.authority_secret is None:
        raise _refuse("tls.authoritySecret", None, "must name a Secret in the app namespace that holds ca.crt")
    if tls.certificates == SECRETS:
        for key, own in (("rabbitmqSecret", own_broker), ("postgresSecret", own_server)):
            if own and given[key] is None:
                raise _refuse(f"tls.{key}", None, "must name a Secret in the data namespace with tls.crt and tls.key")


def _keda(settings: StackSettings) -> None:
    keda, waybill = settings.keda, settings.waybill
    if keda.install and not keda.enabled:
        raise _refuse(
            "keda.install", True, "brings what nothing uses; set keda.enabled to true or keda.install to false"
        )
    if waybill.min_replicas > waybill.max_replicas:
        raise _refuse(
            "waybill.minReplicas", waybill.min_replicas, f"is above waybill.maxReplicas={waybill.max_replicas}"
        )


def _order(settings: StackSettings) -> None:
    order = settings.order
    if order.max_replicas is not None and order.max_replicas < order.replicas:
        raise _refuse("order.maxReplicas", order.max_replicas, f"is below order.replicas={order.replicas}")


def _connections(settings: StackSettings) -> None:
    if settings.postgres.mode == EXTERNAL:
        return
    # What the chart is told in the end, `chart.values` included.
    values = chart_values(settings, authority_secret=None, credentials="")
    order_is_scaled = _whole(values, "functions.order.autoscaling.enabled")
    order = "functions.order.autoscaling.maxReplicas" if order_is_scaled else "functions.order.replicas"
    waybill = "keda.maxReplicas" if _whole(values, "keda.enabled") else "functions.waybill.replicas"
    wanted = CONNECTIONS_BESIDE_THE_FUNCTIONS
    for function, pods in (("order", order), ("waybill", waybill)):
        pool = _whole(values, f"functions.{function}.databasePoolSize")
        wanted += (_whole(values, pods) + PODS_MORE_IN_A_ROLL) * (pool + CONNECTIONS_BESIDE_THE_POOL)
    if wanted > settings.postgres.max_connections:
        raise _refuse(
            "postgres.maxConnections",
            settings.postgres.max_connections,
            f"order and waybill at their most pods can take {wanted} connections with their pools; allow as many, or "
            "lower order.replicas or maxReplicas, waybill.maxReplicas or a poolSize",
        )


def _whole(values: object, path: str) -> int:
    """The number or truth at that path; 0 where there is none, which the chart itself then refuses."""
    for key in path.split("."):
        values = values.get(key) if isinstance(values, Mapping) else None
    return values if isinstance(values, int) else 0


def _passwords(settings: StackSettings) -> None:
    keys = passwords.needed(rabbitmq_mode=settings.rabbitmq.mode, keda=settings.keda.enabled)
    missing = [key for key in keys if key not in settings.passwords]
    if missing:
        raise _refuse(
            missing[0],
            None,
            f"is not set ({passwords.PASSWORDS[missing[0]]}), nor are {len(missing) - 1} others; "
            "make what is missing by: python -m outhaul_infra.secrets",
        )

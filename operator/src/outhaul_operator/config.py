"""The operator's settings, read once at its start and refused early, with the way out in the message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from outhaul.alerts import Webhook
from outhaul.configuration.environment import Environment
from outhaul.errors import ConfigurationError
from outhaul.logs import FORMATS, LEVELS
from outhaul_operator.specs import SecretRef

HTTP_PORT = 8082
# https://kubernetes.io/docs/concepts/containers/images/#image-pull-policy
PULL_POLICIES = ("Always", "IfNotPresent", "Never")
# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-label-names
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_ENTRY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_DNS_SUBDOMAIN = re.compile(rf"(?=.{{1,253}}\Z){_DNS_LABEL.pattern}(\.{_DNS_LABEL.pattern})*")
# The form an image reference has; whether there is such an image is the kubelet's to find out.
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorConfig:
    """Everything the operator can be told. Docs: docs/reference/settings.md.

    ``namespaces`` empty: the whole cluster. ``image`` and ``job_service_account`` are what every Job gets; no custom
    resource can say otherwise. ``look_timeout_seconds`` bounds each part of a look (the database, the broker) alone.
    """

    namespaces: tuple[str, ...]
    image: str
    job_service_account: str
    job_image_pull_policy: str
    job_broker_authority: SecretRef | None
    job_database_authority: SecretRef | None
    max_jobs: int
    concurrency: int
    look_timeout_seconds: float
    http_host: str
    http_port: int
    alert_webhook_url: str | None = field(repr=False)  # a webhook's path often is its password
    log_level: str
    log_format: str
    warnings: tuple[str, ...]

    @classmethod
    def from_environment(cls, values: Mapping[str, str]) -> OperatorConfig:
        """From a mapping such as ``os.environ``. Raises ConfigurationError naming the variable."""
        env = Environment(values)
        webhook = env.text_or_none("OUTHAUL_ALERT_WEBHOOK_URL")
        if webhook is not None:
            Webhook.parse(webhook, setting="OUTHAUL_ALERT_WEBHOOK_URL")
        return cls(
            namespaces=_namespaces(env.text_or_none("OUTHAUL_OPERATOR_NAMESPACES") or ""),
            image=_matching(
                env, "OUTHAUL_OPERATOR_IMAGE", _IMAGE, "write an image such as registry/outhaul/operator:1"
            ),
            job_service_account=_matching(
                env, "OUTHAUL_OPERATOR_JOB_SERVICE_ACCOUNT", _DNS_SUBDOMAIN, "write the name of a ServiceAccount"
            ),
            job_image_pull_policy=env.text("OUTHAUL_OPERATOR_JOB_IMAGE_PULL_POLICY", choices=PULL_POLICIES),
            job_broker_authority=_entry(env, "OUTHAUL_OPERATOR_JOB_BROKER_AUTHORITY"),
            job_database_authority=_entry(env, "OUTHAUL_OPERATOR_JOB_DATABASE_AUTHORITY"),
            max_jobs=env.integer("OUTHAUL_OPERATOR_MAX_JOBS", least=1, most=1000),
            concurrency=env.integer("OUTHAUL_OPERATOR_CONCURRENCY", least=1, most=1000),
            look_timeout_seconds=env.duration("OUTHAUL_OPERATOR_LOOK_TIMEOUT", least=0.5, most=60),
            http_host=env.text("OUTHAUL_HTTP_HOST"),
            http_port=env.integer("OUTHAUL_HTTP_PORT", HTTP_PORT, most=65535),
            alert_webhook_url=webhook,
            log_level=env.text("OUTHAUL_LOG_LEVEL", choices=LEVELS),
            log_format=env.text("OUTHAUL_LOG_FORMAT", choices=FORMATS),
            warnings=tuple(env.warn_unknown()),
        )


def _namespaces(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if not _DNS_LABEL.fullmatch(name):
            raise ConfigurationError(
                "OUTHAUL_OPERATOR_NAMESPACES", name[:80], "write names of namespaces with commas between, or nothing"
            )
    return tuple(dict.fromkeys(names))


def _entry(env: Environment, name: str) -> SecretRef | None:
    text = env.text_or_none(name)
    if text is None:
        return None
    secret, _, key = text.strip().partition("/")
    if not _DNS_SUBDOMAIN.fullmatch(secret) or not _ENTRY.fullmatch(key):
        raise ConfigurationError(name, text[:80], "write a Secret and its entry, such as broker-ca/ca.crt")
    return SecretRef(name=secret, key=key)


def _matching(env: Environment, name: str, pattern: re.Pattern[str], remedy: str) -> str:
    text = env.text(name).strip()
    if not pattern.fullmatch(text):
        raise ConfigurationError(name, text[:80], remedy)
    return text

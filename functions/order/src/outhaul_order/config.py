"""The order function's settings, read once at its start and refused early, with the way out in the message."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from outhaul import failpoints
from outhaul.configuration.durations import format_duration
from outhaul.configuration.environment import Environment
from outhaul.errors import ConfigurationError
from outhaul.logs import FORMATS, LEVELS
from outhaul.sending.sender_settings import MOST_HISTORY_DAYS, SenderSettings
from outhaul.settings import BrokerSettings, DatabaseSettings

HTTP_PORT = 8080
TEST_LEASE = "OUTHAUL_TEST_SENDER_LEASE"
DAY = 86_400.0  # seconds
# Of the drain time: first for requests in flight, then for the sender; what is left closes connections.
REQUESTS_SHARE = 0.4
SENDER_SHARE = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderConfig:
    """Everything the order function can be told. Docs: docs/reference/settings.md."""

    database: DatabaseSettings
    broker: BrokerSettings
    http_host: str
    http_port: int
    max_body_bytes: int
    pool_size: int
    database_timeout_seconds: float
    prepared_statements: bool
    keep_keys_seconds: float
    sender: SenderSettings
    drain_seconds: float
    alert_webhook_url: str | None = field(repr=False)  # a webhook's path often is its password
    log_level: str
    log_format: str
    triggers: tuple[failpoints.Trigger, ...]
    warnings: tuple[str, ...]

    @classmethod
    def from_environment(cls, values: Mapping[str, str]) -> OrderConfig:
        """From a mapping such as ``os.environ``. Raises ConfigurationError naming the variable."""
        env = Environment(values)
        drain_seconds = env.duration("OUTHAUL_DRAIN_TIMEOUT", least=1, most=3600)
        prepared_statements = env.flag("OUTHAUL_DATABASE_PREPARED_STATEMENTS")
        return cls(
            database=env.database("OUTHAUL_ORDER_DATABASE_URL"),
            broker=env.broker("OUTHAUL_AMQP_URL"),
            http_host=env.text("OUTHAUL_HTTP_HOST"),
            http_port=env.integer("OUTHAUL_HTTP_PORT", HTTP_PORT, most=65535),
            max_body_bytes=env.integer("OUTHAUL_HTTP_MAX_BODY_BYTES", least=1024, most=8 * 1024 * 1024),
            pool_size=env.integer("OUTHAUL_DATABASE_POOL_SIZE", least=1, most=500),
            database_timeout_seconds=env.duration("OUTHAUL_DATABASE_TIMEOUT", least=0.1, most=60),
            prepared_statements=prepared_statements,
            keep_keys_seconds=env.duration("OUTHAUL_IDEMPOTENCY_KEEP", least=60, most=90 * 86400),
            sender=sender_settings(
                env, drain_seconds=drain_seconds * SENDER_SHARE, prepared_statements=prepared_statements
            ),
            drain_seconds=drain_seconds,
            alert_webhook_url=env.text_or_none("OUTHAUL_ALERT_WEBHOOK_URL"),
            log_level=env.text("OUTHAUL_LOG_LEVEL", choices=LEVELS),
            log_format=env.text("OUTHAUL_LOG_FORMAT", choices=FORMATS),
            triggers=failpoints.parse(env.text_or_none(failpoints.SETTING) or "", offered=failpoints.ORDER_POINTS),
            warnings=(*_warn_unsafe(env), *env.warn_unknown()),
        )


def sender_settings(env: Environment, *, drain_seconds: float, prepared_statements: bool) -> SenderSettings:
    """The sender's bounds. Raises ConfigurationError, naming the variable, where they contradict each other."""
    unsafe_lease = env.text_or_none(TEST_LEASE) is not None
    lease_seconds = env.duration(TEST_LEASE if unsafe_lease else "OUTHAUL_SENDER_LEASE", most=3600)
    confirm_timeout_seconds = env.duration("OUTHAUL_SENDER_CONFIRM_TIMEOUT", least=0.1, most=600)
    history_seconds = env.duration("OUTHAUL_SENDER_RETENTION", least=DAY, most=MOST_HISTORY_DAYS * DAY)
    try:
        return SenderSettings(
            lease_seconds=lease_seconds,
            unsafe_lease=unsafe_lease,
            confirm_timeout_seconds=confirm_timeout_seconds,
            max_attempts=env.integer("OUTHAUL_SENDER_MAX_ATTEMPTS", least=1, most=1000),
            history_days=math.ceil(history_seconds / DAY),
            drain_seconds=drain_seconds,
            prepared_statements=prepared_statements,
        )
    except ConfigurationError as error:
        if error.setting != "lease_seconds":
            raise
        raise ConfigurationError("OUTHAUL_SENDER_LEASE", format_duration(lease_seconds), error.remedy) from error


def _warn_unsafe(env: Environment) -> list[str]:
    lease = env.text_or_none(TEST_LEASE)
    return [f"{TEST_LEASE}={lease} is for tests alone: messages are sent several times over"] if lease else []

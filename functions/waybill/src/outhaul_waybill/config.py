"""The waybill function's settings, read once at its start and refused early, with the way out in the message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from outhaul import failpoints
from outhaul.configuration.environment import Environment
from outhaul.logs import FORMATS, LEVELS
from outhaul.settings import BrokerSettings, DatabaseSettings

HTTP_PORT = 8081


@dataclass(frozen=True, slots=True, kw_only=True)
class WaybillConfig:
    """Everything the waybill function can be told. Docs: docs/reference/settings.md."""

    database: DatabaseSettings
    broker: BrokerSettings
    http_host: str
    http_port: int
    pool_size: int
    database_timeout_seconds: float
    prepared_statements: bool
    prefetch: int
    batch_size: int
    max_attempts: int
    max_crashes: int
    handler_timeout_seconds: float
    retention: timedelta
    drain_seconds: float
    alert_webhook_url: str | None = field(repr=False)  # a webhook's path often is its password
    log_level: str
    log_format: str
    triggers: tuple[failpoints.Trigger, ...]
    warnings: tuple[str, ...]

    @classmethod
    def from_environment(cls, values: Mapping[str, str]) -> WaybillConfig:
        """From a mapping such as ``os.environ``. Raises ConfigurationError naming the variable."""
        env = Environment(values)
        return cls(
            database=env.database("OUTHAUL_WAYBILL_DATABASE_URL"),
            broker=env.broker("OUTHAUL_AMQP_URL"),
            http_host=env.text("OUTHAUL_HTTP_HOST"),
            http_port=env.integer("OUTHAUL_HTTP_PORT", HTTP_PORT, most=65535),
            pool_size=env.integer("OUTHAUL_DATABASE_POOL_SIZE", least=1, most=500),
            database_timeout_seconds=env.duration("OUTHAUL_DATABASE_TIMEOUT", least=0.1, most=60),
            prepared_statements=env.flag("OUTHAUL_DATABASE_PREPARED_STATEMENTS"),
            prefetch=env.integer("OUTHAUL_CONSUMER_PREFETCH", least=1, most=65535),
            batch_size=env.integer("OUTHAUL_CONSUMER_BATCH_SIZE", least=1, most=10_000),
            max_attempts=env.integer("OUTHAUL_CONSUMER_MAX_ATTEMPTS", least=1, most=1000),
            max_crashes=env.integer("OUTHAUL_CONSUMER_MAX_CRASHES", least=1, most=1000),
            # The broker gives a message up after 30 minutes; the handler's own end must come well before.
            handler_timeout_seconds=env.duration("OUTHAUL_CONSUMER_HANDLER_TIMEOUT", least=1, most=900),
            retention=timedelta(seconds=env.duration("OUTHAUL_CONSUMER_RETENTION", least=86_400, most=3650 * 86_400.0)),
            drain_seconds=env.duration("OUTHAUL_DRAIN_TIMEOUT", least=1, most=3600),
            alert_webhook_url=env.text_or_none("OUTHAUL_ALERT_WEBHOOK_URL"),
            log_level=env.text("OUTHAUL_LOG_LEVEL", choices=LEVELS),
            log_format=env.text("OUTHAUL_LOG_FORMAT", choices=FORMATS),
            triggers=failpoints.parse(env.text_or_none(failpoints.SETTING) or "", offered=failpoints.CONSUMER_POINTS),
            warnings=tuple(env.warn_unknown()),
        )

"""The waybill function as a process: the consumer and a small HTTP side, started and stopped in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from outhaul import failpoints
from outhaul.alerts import Alerter
from outhaul.consumer import Consumer
from outhaul.errors import OuthaulError
from outhaul.hosting.database import Database
from outhaul.hosting.serving import HttpServer, listen, stop_on_signals
from outhaul.metrics import Metrics
from outhaul.retry import Retry
from outhaul_waybill.app import make_app
from outhaul_waybill.config import WaybillConfig
from outhaul_waybill.making import make_waybills
from outhaul_waybill.models import ORDER_CREATED, OrderCreated
from outhaul_waybill.store import WaybillStore
from outhaul_waybill.topology import QUEUE, RETRY_DELAYS_SECONDS

CONSUMER: Final = "outhaul.waybill"
_STALE_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 1.0
_CONSUMER_SHARE: Final = 0.8  # of the drain time; what is left closes connections
_log = logging.getLogger("outhaul.waybill")


def make_consumer(config: WaybillConfig, metrics: Metrics, alerter: Alerter) -> Consumer:
    """The consumer of orders, not yet started."""
    consumer = Consumer(
        CONSUMER,
        queue=QUEUE,
        dsn=config.database,
        amqp_url=config.broker,
        retry=Retry(delays=RETRY_DELAYS_SECONDS, max_attempts=config.max_attempts),
        retention=config.retention,
        prefetch=config.prefetch,
        batch_size=config.batch_size,
        handler_timeout_seconds=config.handler_timeout_seconds,
        max_crashes=config.max_crashes,
        prepared_statements=config.prepared_statements,
        shutdown_seconds=config.drain_seconds * _CONSUMER_SHARE,
        metrics=metrics,
        alerter=alerter,
    )
    consumer.batch_handler(ORDER_CREATED, data=OrderCreated)(make_waybills)
    return consumer


async def serve(config: WaybillConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises ConfigurationError; OuthaulError when the consumer failed."""
    failpoints.arm(config.triggers)
    stop = stop_on_signals()
    sock = listen(
        config.http_host, config.http_port, host_setting="OUTHAUL_HTTP_HOST", port_setting="OUTHAUL_HTTP_PORT"
    )
    metrics = Metrics()
    database = Database(
        config.database,
        name="waybill",
        size=config.pool_size,
        deadline_seconds=config.database_timeout_seconds,
        prepared_statements=config.prepared_statements,
    )
    store = WaybillStore(database)
    alerter = Alerter(
        config.alert_webhook_url,
        setting="OUTHAUL_ALERT_WEBHOOK_URL",
        common_labels={"service": "outhaul-waybill"},
        metrics=metrics,
    )
    consumer = make_consumer(config, metrics, alerter)
    app = make_app(store, metrics, unwell=lambda: unwell(consumer), not_ready=readiness(consumer, store))
    server = HttpServer(app, sock, drain_seconds=1.0)
    await database.open()
    failure = None
    try:
        async with consumer:
            await server.start()
            _log.info("making waybills", extra={"address": server.address, "database": config.database.address})
            failure = await _stopped_or_failed(stop, consumer)
            _log.info("draining")
    finally:
        # Last, so that it can be seen how the consumer drains.
        await server.stop()
        await database.close()
        await asyncio.to_thread(alerter.close)
    _log.info("stopped")
    if failure is not None:
        raise OuthaulError(f"the consumer failed: {failure}")


def unwell(consumer: Consumer) -> str | None:
    """Why the process should be started anew; None while it should not. A broker that is away is no reason."""
    state = consumer.state
    if state.status == "failed":
        return f"the consumer failed: {state.detail}"
    age = consumer.heartbeat_age_seconds
    return f"the consumer's loop has not turned for {age:.0f} s" if age > _STALE_SECONDS else None


def readiness(consumer: Consumer, store: WaybillStore) -> Callable[[], Awaitable[str | None]]:
    """Ready is consuming, with a database that takes waybills."""

    async def not_ready() -> str | None:
        if not consumer.active:
            state = consumer.state
            return f"not consuming ({state.status})" + (f": {state.detail}" if state.detail else "")
        return await store.not_ready()

    return not_ready


async def _stopped_or_failed(stop: asyncio.Event, consumer: Consumer) -> str | None:
    """Until ``stop`` is set or the consumer has failed; says how it failed."""
    while True:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await stop.wait()
        except TimeoutError:
            state = consumer.state
            if state.status == "failed":
                return state.detail
        else:
            return None

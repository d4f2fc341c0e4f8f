"""The order function as a process: its parts started in order, and stopped in the order that loses nothing."""

from __future__ import annotations

import asyncio
import logging

from outhaul import failpoints
from outhaul.alerts import Alerter
from outhaul.hosting.database import Database
from outhaul.hosting.serving import HttpServer, listen, stop_on_signals
from outhaul.metrics import Metrics
from outhaul.outbox import Outbox
from outhaul.sender import Sender
from outhaul_order.app import make_app
from outhaul_order.config import REQUESTS_SHARE, OrderConfig
from outhaul_order.housekeeping import forget_expired_keys
from outhaul_order.models import EXCHANGE, SOURCE
from outhaul_order.store import OrderStore

_log = logging.getLogger("outhaul.order")


async def serve(config: OrderConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises ConfigurationError for an address that cannot be had."""
    failpoints.arm(config.triggers)
    stop = stop_on_signals()
    sock = listen(
        config.http_host, config.http_port, host_setting="OUTHAUL_HTTP_HOST", port_setting="OUTHAUL_HTTP_PORT"
    )
    metrics = Metrics()
    outbox = Outbox(exchange=EXCHANGE, source=SOURCE)
    database = Database(
        config.database,
        name="order",
        size=config.pool_size,
        deadline_seconds=config.database_timeout_seconds,
        prepared_statements=config.prepared_statements,
    )
    alerter = Alerter(
        config.alert_webhook_url,
        setting="OUTHAUL_ALERT_WEBHOOK_URL",
        common_labels={"service": "outhaul-order"},
        metrics=metrics,
    )
    sender = Sender(
        outbox,
        dsn=config.database,
        amqp_url=config.broker,
        name="outhaul-order",
        settings=config.sender,
        metrics=metrics,
        alerter=alerter,
    )
    store = OrderStore(database, outbox, sender, keep_keys_seconds=config.keep_keys_seconds)
    app = make_app(store, metrics, limit_bytes=config.max_body_bytes)
    server = HttpServer(app, sock, drain_seconds=config.drain_seconds * REQUESTS_SHARE)
    await database.open()
    sender.start()
    housekeeping = asyncio.create_task(forget_expired_keys(store, stop), name="housekeeping")
    try:
        await server.start()
        _log.info("taking orders", extra={"address": server.address, "database": config.database.address})
        await server.wait(stop)
        _log.info("draining")
    finally:
        stop.set()
        # No more orders first, then what they have handed over: both within the drain time.
        await server.stop()
        await sender.close()
        await housekeeping
        await database.close()
        await asyncio.to_thread(alerter.close)
    _log.info("stopped")

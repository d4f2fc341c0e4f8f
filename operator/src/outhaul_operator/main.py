"""The operator as a process: API server, loop, watching and health, wired, started and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from outhaul.alerts import Alerter
from outhaul.backoff import Backoff
from outhaul.hosting.process import run
from outhaul.metrics import Metrics
from outhaul_operator.adapters.api_calls import ApiUnavailable
from outhaul_operator.adapters.kubernetes import KubernetesCluster
from outhaul_operator.adapters.postgres import PostgresDatabases
from outhaul_operator.adapters.rabbitmq import RabbitBrokers
from outhaul_operator.config import OperatorConfig
from outhaul_operator.handlers import Memo, Watching
from outhaul_operator.health import HealthServer, listen
from outhaul_operator.jobs import JobSettings
from outhaul_operator.looking import Looking
from outhaul_operator.loop import LookLoop
from outhaul_operator.metrics import OperatorMetrics
from outhaul_operator.seeing import Seeing
from outhaul_operator.slots import Slots

NAME: Final = "outhaul-operator"
_STALE_SECONDS: Final = 60.0
_OVERDUE_SECONDS: Final = 600.0
_ALERTS_SECONDS: Final = 0.3
_CLOSE_SECONDS: Final = 0.2
_OUTAGE_SECONDS: Final = 30.0
# A look waits for its database, its broker, the history (four times as long) and about six requests to the API server.
_LOOK_PARTS: Final = 13
_log = logging.getLogger("outhaul.operator")


def main() -> int:
    """Exit code 0 after an orderly end, 1 after a failure, 2 for a setting that cannot be used."""
    return run(NAME, OperatorConfig.from_environment, serve, new_loop=_new_loop)


async def serve(config: OperatorConfig) -> None:
    """Look after the resources until SIGTERM or SIGINT. Raises ConfigurationError; OuthaulError when that failed."""
    stop = asyncio.Event()
    _stop_on_signals(stop)
    _quieten()
    operator = _Operator.of(config)
    await operator.health.start()
    _log.info(
        "looking after %s",
        f"namespaces {', '.join(config.namespaces)}" if config.namespaces else "the whole cluster",
        extra={"address": operator.health.address, "api_server": operator.cluster.address},
    )
    try:
        if await _prepared(operator.cluster, config.namespaces, stop):
            await _first_of(_watch(operator.watching, stop), operator.watching.ended(), operator.loop.run())
        _log.info("stopping")
    finally:
        await operator.loop.stop()
        await operator.health.stop()
        await _closed(operator.databases.close(), operator.brokers.close())
        # Alone: kopf waits for seconds for whatever task it did not see begin before it.
        await operator.watching.stop()
        await _closed(operator.cluster.close())
        await asyncio.to_thread(operator.alerter.close, _ALERTS_SECONDS)
    _log.info("stopped")


@dataclass(frozen=True, slots=True)
class _Operator:
    """The parts that have a beginning and an end."""

    cluster: KubernetesCluster
    databases: PostgresDatabases
    brokers: RabbitBrokers
    alerter: Alerter
    loop: LookLoop
    watching: Watching
    health: HealthServer

    @classmethod
    def of(cls, config: OperatorConfig) -> _Operator:
        sock = listen(config.http_host, config.http_port)
        metrics = OperatorMetrics()
        alert_metrics = Metrics.off()
        metrics.register(alert_metrics.alerts)
        seconds = config.look_timeout_seconds
        cluster = KubernetesCluster(timeout_seconds=seconds, metrics=metrics)
        databases = PostgresDatabases(timeout_seconds=seconds)
        brokers = RabbitBrokers(timeout_seconds=seconds)
        alerter = Alerter(
            config.alert_webhook_url,
            setting="OUTHAUL_ALERT_WEBHOOK_URL",
            common_labels={"service": NAME},
            metrics=alert_metrics,
        )
        looking = Looking(
            Seeing(cluster, databases, brokers, timeout_seconds=seconds),
            job_settings=JobSettings(
                image=config.image,
                image_pull_policy=config.job_image_pull_policy,
                service_account=config.job_service_account,
                broker_authority=config.job_broker_authority,
                database_authority=config.job_database_authority,
                environment={"OUTHAUL_LOG_LEVEL": config.log_level, "OUTHAUL_LOG_FORMAT": config.log_format},
            ),
            slots=Slots(config.max_jobs),
            alerter=alerter,
            metrics=metrics,
        )
        loop = LookLoop(
            looking.look,
            forget=looking.forget,
            metrics=metrics,
            concurrency=config.concurrency,
            deadline_seconds=_LOOK_PARTS * seconds,
        )
        watching = Watching(Memo(loop, looking), namespaces=config.namespaces, timeout_seconds=seconds)
        health = HealthServer(
            sock,
            unwell=lambda: _unwell(loop),
            not_ready=lambda: _unwell(loop) or (None if watching.started else "not watching the resources yet"),
            metrics=metrics,
        )
        return cls(cluster, databases, brokers, alerter, loop, watching, health)


def _unwell(loop: LookLoop) -> str | None:
    if loop.heartbeat_age_seconds > _STALE_SECONDS:
        return f"the loop has not turned for {loop.heartbeat_age_seconds:.0f} s"
    if loop.overdue_seconds > _OVERDUE_SECONDS:
        return f"a look has been waiting for its turn for {loop.overdue_seconds:.0f} s"
    return None


async def _prepared(cluster: KubernetesCluster, namespaces: tuple[str, ...], stop: asyncio.Event) -> bool:
    """Wait for the API server; False when told to stop first. Raises OuthaulError for what waiting cannot cure."""
    backoff = Backoff(base_seconds=0.5, cap_seconds=10.0)
    while not stop.is_set():
        try:
            await cluster.check(namespaces)
        except ApiUnavailable as error:
            seconds = backoff.next_seconds()
            _log.warning("%s", error, extra={"again_seconds": seconds})
            try:
                async with asyncio.timeout(seconds):
                    await stop.wait()
            except TimeoutError:
                continue
        else:
            return True
    return False


async def _watch(watching: Watching, stop: asyncio.Event) -> None:
    """Watch until told to stop. Its task and those beside it exist by now, so kopf spares them."""
    await watching.start()
    _stop_on_signals(stop)  # kopf has taken them over
    await stop.wait()


async def _first_of(*parts: Coroutine[Any, Any, object]) -> None:
    """Until one of them ends; what it raises is raised."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    ended, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.wait(tasks)
    for task in ended:
        task.result()


async def _closed(*closing: Coroutine[Any, Any, None]) -> None:
    """Close these, for a moment at most: a peer that does not answer must not hold up the end."""
    for each in closing:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await each


def _quieten() -> None:
    """Keep kopf from telling of every event it passes on, and of each try of each request in an outage."""
    for name in ("kopf", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_NowAndThen())


class _NowAndThen(logging.Filter):
    """Lets kopf tell of a failing request once in half a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._told_at = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged."""
        if not record.name.startswith("kopf.") or not record.getMessage().startswith("Request attempt"):
            return True
        if record.created - self._told_at < _OUTAGE_SECONDS:
            return False
        self._told_at = record.created
        return True


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


class _Impatient(ThreadPoolExecutor):
    """Threads whose end nobody waits for: one may hang in a look-up of a name for as long as the resolver likes."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - the base's words
        """Take no more work."""
        super().shutdown(wait=False, cancel_futures=True)


def _new_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    # The default is six threads on two processors: a few dead names would hold up everybody's look-ups.
    loop.set_default_executor(_Impatient(max_workers=128, thread_name_prefix="outhaul"))
    return loop

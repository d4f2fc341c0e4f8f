"""Tell people by a webhook in Alertmanager's form, and never stand in the data path's way.

``fire`` and ``resolve`` only note what happened, under a lock held for microseconds; one daemon thread posts it. A
webhook that is slow, down or wrong costs nothing but a counter and a log line: alerts wait in bounded memory and are
told when it is back. The same URL can be Alertmanager's receiver, PagerDuty's bridge or ten lines of one's own.
"""

from __future__ import annotations

import base64
import json
import logging
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import unquote, urlunsplit

from outhaul.alert_book import AlertBook, Batch, Taken
from outhaul.broker_admin.http_call import call
from outhaul.configuration.redaction import redact
from outhaul.configuration.urls import bracketed, split_url
from outhaul.metrics import Metrics

Severity = Literal["info", "warning", "critical"]

_log = logging.getLogger(__name__)
_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where alerts are posted. Its path often is its password, so only the host is ever shown."""

    url: str = field(repr=False)
    address: str
    headers: Mapping[str, str] = field(repr=False)

    @classmethod
    def parse(cls, url: str, *, setting: str = "alert_webhook_url") -> Webhook:
        """``http[s]://[user:password@]host[:port]/path``. Raises ConfigurationError naming ``setting``."""
        parts = split_url(url, setting, ("http", "https"), "write http://host:port/path or https://")
        headers = {"Content-Type": "application/json", "User-Agent": "outhaul"}
        if parts.username:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(credentials.encode()).decode()}"
        host = bracketed(parts.hostname or "") + (f":{parts.port}" if parts.port else "")
        return cls(urlunsplit((parts.scheme, host, parts.path or "/", parts.query, "")), host, headers)


class Alerter:
    """Alerts to one webhook; without a URL they are only logged. Thread-safe; nothing here raises once constructed.

    Alerts of one name go out together, at most once in ``group_interval_seconds``; one that fires again and again is
    told again after ``repeat_seconds``. ``labels`` tell one alert from another of the same name, so they must be few: a
    queue, a reason, never a message's id. Raises ConfigurationError for a URL that cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        setting: str = "alert_webhook_url",
        common_labels: Mapping[str, str] | None = None,
        metrics: Metrics | None = None,
        group_wait_seconds: float = 0.5,
        group_interval_seconds: float = 30.0,
        repeat_seconds: float = 600.0,
        timeout_seconds: float = 5.0,
        most_alerts: int = 1000,
    ) -> None:
        self._webhook = Webhook.parse(url, setting=setting) if url else None
        self._common_labels = dict(common_labels or {})
        self._metrics = metrics or Metrics.off()
        self._timeout_seconds = timeout_seconds
        self._book = AlertBook(group_wait_seconds, group_interval_seconds, repeat_seconds, most_alerts)
        self._changed = threading.Condition()
        self._closing_at: float | None = None
        self._failing = False
        self._thread: threading.Thread | None = None

    def fire(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        summary: str,
        description: str = "",
        severity: Severity = "warning",
    ) -> None:
        """Something people should know began, or happened again. ``name`` is CamelCase, ``summary`` a sentence."""
        annotations = {"summary": redact(summary), "description": redact(description)}
        with self._changed:
            taken = self._book.fire(
                name,
                self._labels(labels, severity),
                annotations,
                now=time.monotonic(),
                at=datetime.now(UTC),
            )
            if taken is not Taken.KNOWN:
                self._wake()
        if taken is Taken.DROPPED:
            self._metrics.alerts.inc(result="dropped")
        if taken is Taken.NEW:
            _log.warning("alert %s: %s", name, annotations["summary"], extra={"alert_labels": dict(labels or {})})

    def resolve(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        severity: Severity = "warning",
        fired_at: datetime | None = None,
        summary: str = "",
    ) -> None:
        """It is over; nothing happens if it was never fired. ``severity`` as it was fired with.

        ``fired_at``: when it was, if perhaps by an earlier process, of which this one knows from elsewhere.
        """
        with self._changed:
            known = self._book.resolve(
                name,
                self._labels(labels, severity),
                now=time.monotonic(),
                at=datetime.now(UTC),
                fired_at=fired_at,
                annotations={"summary": redact(summary)},
            )
            if known:
                self._wake()
        if known:
            _log.info("alert %s is over", name, extra={"alert_labels": dict(labels or {})})

    def close(self, timeout_seconds: float = 2.0) -> None:
        """Tell what is still untold, for so long and no longer. From asyncio: ``asyncio.to_thread(alerter.close)``."""
        with self._changed:
            self._closing_at = time.monotonic() + timeout_seconds
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread.is_alive():
            thread.join(timeout_seconds)
        with self._changed:
            untold = self._book.untold() if self._webhook is not None else 0
        if untold:
            self._metrics.alerts.inc(untold, result="dropped")
            _log.error("%d alerts could not be told before the end", untold)

    def _labels(self, labels: Mapping[str, str] | None, severity: Severity) -> dict[str, str]:
        given = {**self._common_labels, **(labels or {}), "severity": severity}
        return {name: redact(str(value)) for name, value in given.items()}

    def _wake(self) -> None:
        """Have the thread look again; it is started by the first alert, and anew in a child process after a fork."""
        if self._webhook is None:
            # The log line is the telling; the book must know, or it would fill up.
            batch, _ = self._book.due(time.monotonic(), at_once=True)
            if batch is not None:
                self._book.delivered(batch, time.monotonic())
            return
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._run, args=(self._webhook,), name="outhaul-alerts", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread can start while the interpreter ends; the next alert tries again
                return
            self._thread = thread
        self._changed.notify_all()

    def _run(self, webhook: Webhook) -> None:
        while True:
            batch = self._next()
            if batch is None:
                return
            told = self._post(webhook, batch)
            with self._changed:
                if told:
                    self._book.delivered(batch, time.monotonic())
                else:
                    self._book.failed(batch, time.monotonic())
                    if self._closing_at is not None:
                        return

    def _next(self) -> Batch | None:
        """The next batch, when its time has come; None at the end."""
        with self._changed:
            while True:
                now = time.monotonic()
                closing = self._closing_at is not None
                if self._closing_at is not None and now >= self._closing_at:
                    return None
                batch, later = self._book.due(now, at_once=closing)
                if batch is not None or closing:
                    return batch
                self._changed.wait(None if later is None else later - now)

    def _post(self, webhook: Webhook, batch: Batch) -> bool:
        timeout_seconds = self._timeout_seconds
        if self._closing_at is not None:
            timeout_seconds = max(0.05, min(timeout_seconds, self._closing_at - time.monotonic()))
        try:
            answer = call(
                "POST",
                webhook.url,
                body=json.dumps(batch.as_json()).encode(),
                headers=webhook.headers,
                context=ssl.create_default_context() if webhook.url.startswith("https:") else None,
                timeout_seconds=timeout_seconds,
                most_bytes=_ANSWER_BYTES,
            )
            why = "" if 200 <= answer.status < 300 else f"answered {answer.status}"
        except OSError as error:
            why = str(error) or type(error).__name__
        except Exception as error:  # noqa: BLE001 - an alerter that dies of an unforeseen error would be silent for ever
            why = f"{type(error).__name__}: {redact(str(error))}"
        self._metrics.alerts.inc(len(batch.alerts), result="failed" if why else "delivered")
        if why and not self._failing:
            _log.warning("the alert webhook at %s does not take alerts: %s", webhook.address, why)
        if not why and self._failing:
            _log.info("the alert webhook at %s takes alerts again", webhook.address)
        self._failing = bool(why)
        return not why

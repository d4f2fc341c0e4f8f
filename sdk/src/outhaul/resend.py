"""Send what no sender sends: the sender's own engine for one run, on record in the table `runs`.

What people call by `outhaul resend`, and what the operator's Jobs run. Harmless when run twice, or beside a live
sender: a row is one sender's at a time, and a message sent twice is one effect.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

from outhaul import ids
from outhaul.alerts import Alerter
from outhaul.database import runs
from outhaul.database.outbox_store import OutboxRow, OutboxStore
from outhaul.errors import ConfigurationError, DatabaseUnreachable
from outhaul.metrics import Metrics
from outhaul.sender import Sender
from outhaul.sending.engine import Engine, RouteTrouble
from outhaul.sending.sender_alerts import SenderAlerts
from outhaul.sending.sender_settings import SenderSettings
from outhaul.settings import BrokerSettings, DatabaseSettings

_log = logging.getLogger(__name__)

PATIENCE_SECONDS = 30.0
PROGRESS_SECONDS = 0.5
RECORD_SECONDS = 5.0
_NIL = UUID(int=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResendRequest:
    """Which rows: these ``message_ids`` (parked ones too), those ``created_between`` two instants, all ``parked`` ones,
    or, with none of the three, every row that is free to be taken.

    Rows a live sender holds are always left to it. ``limit`` is the most rows sent under one run id, however often
    that is started. Raises ConfigurationError for contradictions.
    """

    message_ids: tuple[UUID, ...] = ()
    created_between: tuple[datetime, datetime] | None = None
    parked: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        """Refuse what could mean two things."""
        if self.limit is not None and self.limit < 1:
            raise ConfigurationError("limit", self.limit, "must be at least 1, or left out to send all that are meant")
        if sum((bool(self.message_ids), self.created_between is not None, self.parked)) > 1:
            raise ConfigurationError("resend", "", "choose one of message ids, a time range, or parked rows")
        if self.created_between is not None:
            first, last = self.created_between
            if first.tzinfo is None or last.tzinfo is None:
                raise ConfigurationError("created_between", f"{first}..{last}", "give both instants with a time zone")
            if first >= last:
                raise ConfigurationError("created_between", f"{first}..{last}", "must begin before it ends")

    @property
    def is_filtered(self) -> bool:
        """Whether it names rows; else it means all that are free."""
        return bool(self.message_ids) or self.created_between is not None or self.parked

    def document(self) -> dict[str, Any]:
        """For the record."""
        return self._chosen() | ({} if self.limit is None else {"limit": self.limit})

    def _chosen(self) -> dict[str, Any]:
        if self.message_ids:
            return {"message_ids": [str(each) for each in self.message_ids]}
        if self.created_between is not None:
            return {"created_between": [each.isoformat() for each in self.created_between]}
        return {"parked": True} if self.parked else {"all": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResendProgress:
    """Counts of one run so far, attempts that were cut short included. ``sent`` rows are confirmed and marked.

    ``taken`` ones were claimed. ``not_routed`` and ``refused_by_queue`` went back without an attempt spent; ``refused``
    spent one; ``parked`` of those were given up on again; ``unknown`` had no answer and are free again.
    """

    taken: int = 0
    sent: int = 0
    refused: int = 0
    parked: int = 0
    not_routed: int = 0
    refused_by_queue: int = 0
    unknown: int = 0

    def document(self) -> dict[str, int]:
        """For the record."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def recorded(cls, counts: Mapping[str, Any]) -> ResendProgress:
        """What a record says."""
        return cls(**{name: int(counts.get(name, 0)) for name in cls.__slots__})

    def __add__(self, more: ResendProgress) -> ResendProgress:
        return ResendProgress(**{name: getattr(self, name) + getattr(more, name) for name in self.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class ResendResult:
    """How a run ended. ``done_before``: the same run id was carried out already, and nothing was done now; ``progress``
    and ``detail`` are then what is on record.

    ``outage`` says why nothing more could be sent ("" when something could), ``routes`` which routes take no messages.
    """

    run_id: str
    progress: ResendProgress = field(default_factory=ResendProgress)
    outage: str = ""
    routes: tuple[RouteTrouble, ...] = ()
    done_before: bool = False
    detail: str = ""

    @property
    def is_clean(self) -> bool:
        """Whether every row that was meant and free is sent."""
        return not (self.outage or self.routes or self.progress.refused)


async def resend_once(
    request: ResendRequest,
    *,
    dsn: str | DatabaseSettings,
    amqp_url: str | BrokerSettings,
    run_id: str | None = None,
    actor: str | None = None,
    settings: SenderSettings | None = None,
    metrics: Metrics | None = None,
    on_progress: Callable[[ResendProgress], None] = lambda _: None,
    patience_seconds: float = PATIENCE_SECONDS,
    stop: asyncio.Event | None = None,
    alerter: Alerter | None = None,
) -> ResendResult:
    """Send the rows meant, and end when none is left, when only broken routes remain, or after an outage.

    An outage of broker or database longer than ``patience_seconds`` ends the run as failed; a failed run may be
    started again under its ``run_id``, a done one does nothing. ``on_progress`` is called about twice a second.
    ``stop`` ends it early, in order. ``alerter`` (the caller's, to be closed by the caller) tells people of rows parked
    by this run. Raises DatabaseUnreachable where not even the record could be begun.
    """
    database, broker = DatabaseSettings.parse(dsn), BrokerSettings.parse(amqp_url)
    name = run_id or runs.new_run_id("resend")
    record = await asyncio.to_thread(_Record.begin, database, name, actor or runs.actor_name(), request.document())
    try:
        before = record.before
        if record.is_over:
            return ResendResult(run_id=name, done_before=True, progress=before, detail=record.detail)
        most_rows = None if request.limit is None else request.limit - before.sent
        if most_rows is not None and most_rows <= 0:  # cut short just before its end
            result = ResendResult(run_id=name, progress=before)
            await asyncio.to_thread(record.finish, result)
            return result
        chosen = _Chosen(request)
        settings = settings or SenderSettings()
        alerts = SenderAlerts(alerter or Alerter(), sender=name, broker=broker.address, database=database.address)
        engine = Engine(
            database,
            broker,
            settings,
            name=f"outhaul resend {name}"[:100],
            metrics=metrics or Metrics.off(),
            source=chosen.source(settings.lease_seconds) if request.is_filtered else None,
            probing=not request.is_filtered,
            most_rows=most_rows,
            on_parked=lambda setback: alerts.parked(setback, settings.max_attempts),
            on_released=chosen.again,
        )
        engine.start()
        try:
            outage = await _watch_over(engine, record, on_progress, patience_seconds, stop or asyncio.Event())
            routes = engine.troubles()
        finally:
            await engine.drain(settings.drain_seconds)
        progress = before + _progress(engine)
        on_progress(progress)
        result = ResendResult(run_id=name, progress=progress, outage=outage, routes=routes)
        await asyncio.to_thread(record.finish, result)
        return result
    finally:
        await asyncio.to_thread(record.close)


async def watch(
    *,
    dsn: str | DatabaseSettings,
    amqp_url: str | BrokerSettings,
    stop: asyncio.Event,
    settings: SenderSettings | None = None,
    metrics: Metrics | None = None,
    on_state: Callable[[Sender], None] = lambda _: None,
    state_seconds: float = 1.0,
    alerter: Alerter | None = None,
) -> None:
    """A sender of its own until ``stop`` is set. ``on_state(sender)`` is called every ``state_seconds``.

    Without ``settings`` it leaves the history alone: how long that is kept is said to the senders of the outbox.
    ``alerter`` (the caller's, to be closed by the caller) tells people of parked rows and outages.
    """
    async with Sender(
        dsn=dsn,
        amqp_url=amqp_url,
        name="outhaul resend",
        settings=settings or SenderSettings(history_days=None),
        metrics=metrics,
        alerter=alerter,
    ) as sender:
        while not stop.is_set():
            on_state(sender)
            try:
                async with asyncio.timeout(state_seconds):
                    await stop.wait()
            except TimeoutError:
                continue


async def _watch_over(
    engine: Engine,
    record: _Record,
    on_progress: Callable[[ResendProgress], None],
    patience_seconds: float,
    stop: asyncio.Event,
) -> str:
    """Wait for the end; the outage that brought it, or ""."""
    well_at = told_at = recorded_at = time.monotonic()
    while not engine.has_sent_everything and not stop.is_set():
        await engine.wait_for_change(PROGRESS_SECONDS)
        now = time.monotonic()
        if not engine.outage:
            well_at = now
        elif now - well_at > patience_seconds:
            return engine.outage
        if now - told_at >= PROGRESS_SECONDS:
            told_at = now
            on_progress(record.before + _progress(engine))
        if now - recorded_at >= RECORD_SECONDS:
            recorded_at = now
            await asyncio.to_thread(record.progress, record.before + _progress(engine))
    return "it was stopped" if stop.is_set() and not engine.has_sent_everything else ""


def _progress(engine: Engine) -> ResendProgress:
    tally = engine.pump.tally
    return ResendProgress(
        taken=engine.feeder.taken,
        sent=engine.marker.marked,
        refused=tally.refused,
        parked=engine.feeder.parked,
        not_routed=tally.unroutable,
        refused_by_queue=tally.nacked,
        unknown=tally.unknown,
    )


class _Chosen:
    """Claims the rows a request names, page by page."""

    def __init__(self, request: ResendRequest) -> None:
        self._request = request
        self._after = _NIL
        self._offset = 0
        self._over = False
        self._again: list[UUID] = []

    def again(self, rows: list[OutboxRow]) -> None:
        """These were taken and could not be sent: they are still meant."""
        if self._request.is_filtered:
            self._again += [row.message_id for row in rows]

    def source(self, lease_seconds: float) -> Callable[[OutboxStore, int], Any]:
        async def claim(store: OutboxStore, limit: int) -> list[OutboxRow]:
            rows: list[OutboxRow] = []
            while len(rows) < limit and (page := await self._next(store, limit - len(rows))):
                rows += await store.claim_ids(page, lease_seconds)
            return rows

        return claim

    async def _next(self, store: OutboxStore, limit: int) -> list[UUID]:
        if self._again:
            page, self._again = self._again[:limit], self._again[limit:]
            return page
        if self._over:
            return []
        page = await self._page(store, limit)
        self._over = len(page) < limit
        return page

    async def _page(self, store: OutboxStore, limit: int) -> list[UUID]:
        request = self._request
        if request.message_ids:
            page = list(request.message_ids[self._offset : self._offset + limit])
            self._offset += limit
            return page
        if request.created_between is not None:
            first, last = (ids.first_at(each) for each in request.created_between)
            page = await store.ids_created_between(first, last, after=self._after, limit=limit)
        else:
            page = await store.ids_parked(after=self._after, limit=limit)
        if page:
            self._after = page[-1]
        return page


class _Record:
    """The run's row in `runs`, over a blocking connection: a few statements in a run's life."""

    def __init__(self, conn: runs.Connection, run: runs.Run) -> None:
        self._conn = conn
        self._run = run

        self.before = ResendProgress.recorded(run.counts)

    @property
    def is_over(self) -> bool:
        return self._run.is_over

    @property
    def detail(self) -> str:
        return self._run.detail or ""

    @classmethod
    def begin(cls, database: DatabaseSettings, run_id: str, actor: str, request: dict[str, Any]) -> _Record:
        try:
            conn = psycopg.connect(database.conninfo(), autocommit=True)
        except psycopg.OperationalError as error:
            raise DatabaseUnreachable(database.address, str(error).strip()) from error
        try:
            return cls(conn, runs.start(conn, run_id=run_id, kind="resend", actor=actor, request=request))
        except BaseException:
            conn.close()
            raise

    def progress(self, progress: ResendProgress) -> None:
        self._try(lambda: runs.progress(self._conn, self._run.run_id, progress.document()))

    def finish(self, result: ResendResult) -> None:
        state = runs.FAILED if result.outage else runs.DONE
        reasons = [result.outage] if result.outage else []
        reasons += [f"{each.exchange}/{each.routing_key}: {each.reason}" for each in result.routes]
        self._try(
            lambda: runs.finish(
                self._conn,
                self._run.run_id,
                state=state,
                counts=result.progress.document(),
                detail="; ".join(reasons) or None,
            )
        )

    def close(self) -> None:
        self._conn.close()

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except psycopg.Error as error:
            # The rows are sent or not whatever the record says; a run found unfinished may be started again.
            _log.warning("the run %s could not be recorded: %s", self._run.run_id, error)

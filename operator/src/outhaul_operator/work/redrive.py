"""Move dead letters, once, as a Job: back to their queue, or away for good, on record under the Job's name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import cast

import psycopg

from outhaul.errors import ConfigurationError, DatabaseUnreachable
from outhaul.settings import BrokerSettings, DatabaseSettings
from outhaul.tools.dlq import DeadLetterQueue
from outhaul.tools.letters import DeadLetter
from outhaul.tools.redrive import Connection, Moved, Order, discard, redrive
from outhaul.topology import dead_letter_queue
from outhaul_operator import outcomes
from outhaul_operator.outcomes import RunReport
from outhaul_operator.requests import REQUEST_VARIABLE, RedriveRun
from outhaul_operator.work.ending import Ending, of_error
from outhaul_operator.work.parts import Parts
from outhaul_operator.work.stopping import Stopping

_LETTERS_TOLD = 10
_SLICE_SECONDS = 0.2


def run(parts: Parts, stopping: Stopping) -> Ending:
    """Do it. Never raises for what database or broker may do."""
    wanted = cast("RedriveRun", parts.request)
    if wanted.limit < 1 or wanted.rate_per_second < 1:
        bounds = {"limit": wanted.limit, "rate_per_second": wanted.rate_per_second}
        raise ConfigurationError(REQUEST_VARIABLE, bounds, "both must be at least 1")
    order = Order(
        queue=wanted.queue,
        filter=wanted.filter,
        limit=wanted.limit,
        consumer=wanted.consumer,
        rate_per_second=wanted.rate_per_second,
        force=wanted.force,
        reason=wanted.discard_reason,
        dry_run=wanted.dry_run,
    )
    move = discard if wanted.discard_reason else redrive
    counts: dict[str, int] = {}

    def keep(now: Mapping[str, int]) -> None:
        counts.update(now)

    try:
        with (
            _connected(parts.database) as inbox,
            _Stoppable(parts.broker, dead_letter_queue(wanted.queue), stopping) as letters,
        ):
            moved = move(letters, inbox, order, run_id=parts.run_id, actor=parts.actor, progress=keep)
    except Exception as error:  # noqa: BLE001 - sorted by kind there; what was done until then is told beside it
        ending = of_error(error, parts.database.address)
        return Ending(ending.code, replace(ending.report, counts=counts))
    return ending_of(moved)


def ending_of(moved: Moved) -> Ending:
    """What a run's end means."""
    counts = dict(moved.counts)
    if moved.problem:
        # A full queue may have room a minute later: Kubernetes tries again, a bounded number of times.
        return Ending(outcomes.OUTAGE, RunReport(reason="NotTaken", message=moved.problem, counts=counts))
    message = ""
    if moved.dry_run:
        told = [f"{each.message_id or 'no id'} ({each.letter.reason})" for each in moved.examples[:_LETTERS_TOLD]]
        message = f"dry run: {counts['moved']} letters are meant" + (f", the first: {', '.join(told)}" if told else "")
    elif counts["too_old"]:
        message = (
            f"{counts['too_old']} letters are older than the inbox remembers and were left; force: true moves them"
        )
    return Ending(outcomes.DONE, RunReport(message=message, counts=counts, done_before=moved.done_before))


def _connected(database: DatabaseSettings) -> Connection:
    try:
        return psycopg.connect(database.conninfo(), autocommit=True)
    except psycopg.OperationalError as error:
        raise DatabaseUnreachable(database.address, str(error).strip()) from error


class _Stoppable(DeadLetterQueue):
    """Left between two letters when this process is told to stop, so that what was moved is what is on record."""

    def __init__(self, broker: BrokerSettings, name: str, stopping: Stopping) -> None:
        super().__init__(broker, name)
        self._stopping = stopping

    def letters(self) -> Iterator[DeadLetter]:
        """As ever, until told to stop."""
        for letter in super().letters():
            self._stopping.check()
            yield letter

    def wait(self, seconds: float) -> None:
        """As ever, until told to stop: at a low rate this is where nearly all of the time goes."""
        while seconds > 0:
            self._stopping.check()
            super().wait(min(seconds, _SLICE_SECONDS))
            seconds -= _SLICE_SECONDS

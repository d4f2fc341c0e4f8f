"""A round: the Jobs of one decision to resend what is stuck in an Outbox, and how it ends.

It is in the status before its Jobs exist. A Job of it that cannot be found is asked for again under its name, never
under another: it may be there all the same, and its run knows what it has done. Only a round that is over is followed
by another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal, Self

from outhaul.database import runs as records
from outhaul.database.runs import Run
from outhaul_operator.conditions import instant, instant_or_none, shortened
from outhaul_operator.jobs import job_name
from outhaul_operator.snapshot import JobView

State = Literal["Starting", "Running", "Succeeded", "Failed"]

BACKOFF_SECONDS: Final = 60.0
LONGEST_BACKOFF_SECONDS: Final = 900.0
_ROUND = re.compile(r"-r(\d{1,9})-\d+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round. ``generation`` is of the spec it was decided by; ``failures`` counts those in a row before a success.

    ``sent`` rows are confirmed. ``message`` says how it ended. ``counted_at``: when, by the database's clock, what was
    stuck was counted at the look that found it over; nothing is decided by that count again.
    """

    number: int
    generation: int
    jobs: int
    state: State
    started_at: str
    finished_at: str = ""
    sent: int = 0
    failures: int = 0
    message: str = ""
    counted_at: str = ""

    @classmethod
    def from_status(cls, resend: object) -> Self | None:
        """From ``status.resend``; None where there is none that can be read."""
        if not isinstance(resend, Mapping):
            return None
        try:
            return cls(
                number=int(resend["round"]),
                generation=int(resend["generation"]),
                jobs=max(1, int(resend["jobs"])),
                state=resend["state"],
                started_at=str(resend["startedAt"]),
                finished_at=str(resend.get("finishedAt") or ""),
                sent=int(resend.get("sent", 0)),
                failures=int(resend.get("failures", 0)),
                message=str(resend.get("message", "")),
                counted_at=str(resend.get("countedAt") or ""),
            )
        except (KeyError, TypeError, ValueError):
            return None

    def document(self) -> dict[str, Any]:
        """As ``status.resend``."""
        found: dict[str, Any] = {
            "round": self.number,
            "generation": self.generation,
            "jobs": self.jobs,
            "state": self.state,
            "startedAt": self.started_at,
            "sent": self.sent,
            "failures": self.failures,
            "message": self.message,
        }
        late = {"finishedAt": self.finished_at, "countedAt": self.counted_at}
        return found | {name: value for name, value in late.items() if value}

    @property
    def is_over(self) -> bool:
        """Whether every Job of it has ended: none of them is ever made again."""
        return self.state in {"Succeeded", "Failed"}

    def names(self, uid: str) -> tuple[str, ...]:
        """Of its Jobs, which are their runs' ids too."""
        return tuple(
            job_name("outbox", uid, self.generation, f"r{self.number}", str(slot)) for slot in range(self.jobs)
        )

    def was_seen_over_by(self, counted_at: datetime) -> bool:
        """Whether it was found over at the look that made this count. Not "by then": a failover may set clocks back."""
        return instant_or_none(self.counted_at) == counted_at

    def next_at(self) -> datetime | None:
        """When the next round may begin after this one failed; None: at once."""
        finished = instant_or_none(self.finished_at)
        if self.failures < 1 or finished is None:
            return None
        seconds = min(LONGEST_BACKOFF_SECONDS, BACKOFF_SECONDS * 2.0 ** min(self.failures - 1, 16))
        return finished + timedelta(seconds=seconds)

    def wait_seconds(self, now: datetime) -> float:
        """How long the next round has to wait still. A time that no pause is long was written by a wrong clock."""
        next_at = self.next_at()
        seconds = (next_at - now).total_seconds() if next_at is not None else 0.0
        return seconds if 0 < seconds <= LONGEST_BACKOFF_SECONDS else 0.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How one Job of a round ended."""

    failed: bool
    sent: int
    message: str
    done_before: bool = False


def next_round(
    last: Round | None, jobs: Iterable[JobView], *, generation: int, number_of_jobs: int, now: datetime
) -> Round:
    """The round after ``last``. No seen Job's name is used again, should the status have been lost."""
    seen = [int(found.group(1)) for job in jobs if (found := _ROUND.search(job.name))]
    return Round(
        number=max([last.number if last else 0, *seen]) + 1,
        generation=generation,
        jobs=number_of_jobs,
        state="Starting",
        started_at=instant(now),
        failures=last.failures if last else 0,
    )


def advance(
    this: Round,
    uid: str,
    jobs: Sequence[JobView],
    runs: Mapping[str, Run] | None,
    *,
    still_stuck: bool,
    routes_are_broken: bool,
    counted_at: datetime | None,
    now: datetime,
) -> tuple[Round, tuple[str, ...]]:
    """The round as it stands, and the names of its Jobs that have to be made (again).

    ``runs`` None: the records cannot be read now, so a Job that is not there is waited for. ``still_stuck``: rows that
    could be sent are left, by the count of ``counted_at``; a round that sent none of them has failed, whatever its Jobs
    say. ``routes_are_broken``: that some rows cannot be sent is known, so Jobs that failed for them and sent others did
    what could be done.
    """
    if this.is_over:
        return this, ()
    views = {job.name: job for job in jobs}
    ended: list[Ended] = []
    missing = []
    for name in this.names(uid):
        end = job_end(views.get(name), (runs or {}).get(name))
        if end is not None:
            ended.append(end)
        elif name not in views and runs is not None:
            missing.append(name)
    if len(ended) < this.jobs:
        started = any(name in views for name in this.names(uid)) or ended
        return replace(this, state="Running" if started else this.state), tuple(missing)
    this = replace(this, counted_at="" if counted_at is None else counted_at.isoformat())
    return _over(this, ended, still_stuck=still_stuck, routes_are_broken=routes_are_broken, now=now), ()


def job_end(view: JobView | None, run: Run | None) -> Ended | None:
    """How a Job ended, by the Job where it is there and by its record where not; None: it has not, as far as known."""
    if view is not None and view.state == "active":
        return None
    done = run is not None and run.state == records.DONE
    if view is not None:
        result = view.result
        # A pod may be lost after its run was recorded as done: nothing is left to do then.
        failed = view.state == "failed" and not (done and result is None)
        counts = result.counts if result is not None else run.counts if run is not None else {}
        words = (result.message if result is not None else "") or view.message or view.reason
        return Ended(failed, _sent(counts), words, result is not None and result.done_before)
    if run is not None and run.state in {records.DONE, records.FAILED}:
        return Ended(not done, _sent(run.counts), run.detail or "")
    return None


def _over(this: Round, ended: Sequence[Ended], *, still_stuck: bool, routes_are_broken: bool, now: datetime) -> Round:
    sent = sum(end.sent for end in ended)
    failed = [] if sent and routes_are_broken else [end for end in ended if end.failed]
    if failed:
        message = failed[0].message or "its Job failed without a word; see `kubectl describe job` and its pod's log"
    elif sent == 0 and still_stuck and not any(end.done_before for end in ended):
        message = "it sent none of the rows that are stuck; " + (ended[0].message or "see the log of its Job's pod")
    else:
        message = shortened(next((end.message for end in ended if end.message), ""))
        return replace(this, state="Succeeded", sent=sent, failures=0, message=message, finished_at=instant(now))
    return replace(
        this,
        state="Failed",
        sent=sent,
        # What sent something is not to be waited with: only the rest of it failed.
        failures=this.failures + 1 if sent == 0 else 1,
        message=shortened(message),
        finished_at=instant(now),
    )


def _sent(counts: Mapping[str, Any]) -> int:
    found = counts.get("sent", 0)
    return found if isinstance(found, int) else 0

"""When which object is looked at: a heap of due looks, so many at once, each ended by a deadline of its own.

The loop knows nothing of what a look does. It holds the newest body heard of each object, looks at it again when the
last look said so (spread by jitter), at once when its spec changed, soon when a Job of it did, and with backoff when
the look failed. An object whose host is dead costs one of the slots for as long as its deadline, and nobody else waits.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from outhaul.backoff import Backoff
from outhaul.errors import Unreachable
from outhaul_operator.metrics import OperatorMetrics

Body = Mapping[str, Any]

_JITTER: Final = 0.1
_LISTING_SECONDS: Final = 1.0  # by then the Jobs at work are known too, which are listed at the same time
_LEAST_GAP_SECONDS: Final = 0.5  # between two looks at one object: a Job tells of itself several times a second
_LONGEST_NAP_SECONDS: Final = 1.0  # the heartbeat's period
_OUTAGE_SECONDS: Final = 30.0
_FINISH_SECONDS: Final = 0.3
_CANCEL_SECONDS: Final = 0.2
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look left behind: when to look again, and the object as it is now where the look learnt that.

    ``gone``: the API server does not know the object any more.
    """

    again_seconds: float
    body: Body | None = None
    gone: bool = False


Look = Callable[[Body, float], Awaitable[Looked]]
"""Looks at an object, given its newest body and the seconds since that was heard of."""


@dataclass(slots=True)
class _Entry:
    body: Body
    heard_at: float
    due_at: float
    looked_at: float = float("-inf")
    task: asyncio.Task[None] | None = None
    wanted: bool = False
    """Something happened while it was being looked at."""
    backoff: Backoff = field(default_factory=lambda: Backoff(base_seconds=1.0, cap_seconds=60.0))


class LookLoop:
    """Looks at every object it was told of until it is told that the object is gone. For one asyncio loop.

    ``forget`` is called with the last body of an object that is gone. ``spread_seconds``: objects found at start are
    first looked at over so long, instead of all in one instant.
    """

    def __init__(
        self,
        look: Look,
        *,
        forget: Callable[[Body], None],
        metrics: OperatorMetrics,
        concurrency: int = 64,
        deadline_seconds: float = 30.0,
        spread_seconds: float = 5.0,
        rng: random.Random | None = None,
    ) -> None:
        self._look = look
        self._forget = forget
        self._metrics = metrics
        self._concurrency = concurrency
        self._deadline_seconds = deadline_seconds
        self._spread_seconds = spread_seconds
        self._earliest_seconds = min(_LISTING_SECONDS, spread_seconds)
        self._rng = rng or random.Random()  # noqa: S311 - spreads looks over time, guards nothing
        self._entries: dict[str, _Entry] = {}
        self._due: list[tuple[float, int, str]] = []
        self._serial = itertools.count()
        self._looking: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._stopping = False
        self._beat = time.monotonic()
        self._told_outage_at = float("-inf")

    @property
    def heartbeat_age_seconds(self) -> float:
        """Since the loop last turned; it does so every second."""
        return time.monotonic() - self._beat

    @property
    def overdue_seconds(self) -> float:
        """For how long the most overdue look has been waiting for a slot; 0 when none has."""
        return max(0.0, time.monotonic() - self._due[0][0]) if self._due else 0.0

    @property
    def objects(self) -> int:
        """How many objects are looked after."""
        return len(self._entries)

    def saw(self, body: Body, *, listed: bool = False) -> None:
        """The object exists and looks like this. ``listed``: found at start, rather than just made or changed."""
        uid = body["metadata"]["uid"]
        entry = self._entries.get(uid)
        now = time.monotonic()
        if entry is None:
            due_at = now + (self._rng.uniform(self._earliest_seconds, self._spread_seconds) if listed else 0.0)
            self._entries[uid] = _Entry(body, heard_at=now, due_at=due_at)
            self._metrics.objects.set(len(self._entries))
            self._push(uid, due_at)
        elif not _is_older(body, entry.body):
            changed = _intent(body) != _intent(entry.body)
            entry.body, entry.heard_at = body, now
            if changed:
                entry.backoff.reset()
                self._hasten(uid, entry, now)

    def gone(self, uid: str) -> None:
        """The object was deleted: a look under way is given up, and nothing of it stays."""
        entry = self._entries.pop(uid, None)
        if entry is None:
            return
        if entry.task is not None and entry.task is not asyncio.current_task():
            entry.task.cancel()
        self._metrics.objects.set(len(self._entries))
        self._forget(entry.body)

    def nudge(self, uid: str) -> None:
        """Something that belongs to the object changed: look soon. An object nobody knows is none of ours."""
        entry = self._entries.get(uid)
        if entry is not None:
            self._hasten(uid, entry, max(time.monotonic(), entry.looked_at + _LEAST_GAP_SECONDS))

    async def run(self) -> None:
        """Look, until `stop`."""
        while not self._stopping:
            now = self._beat = time.monotonic()
            self._wake.clear()
            self._start_due(now)
            free = len(self._looking) < self._concurrency
            nap = min(_LONGEST_NAP_SECONDS, self._due[0][0] - now) if self._due and free else _LONGEST_NAP_SECONDS
            if nap > 0:
                try:
                    async with asyncio.timeout(nap):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def stop(self) -> None:
        """Start no more looks, let those under way finish for a moment, then give them up: within half a second.

        A look that is given up has done as much as one that was killed, which every step allows for.
        """
        self._stopping = True
        self._wake.set()
        if self._looking:
            _, late = await asyncio.wait(self._looking, timeout=_FINISH_SECONDS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=_CANCEL_SECONDS)

    def _push(self, uid: str, due_at: float) -> None:
        heapq.heappush(self._due, (due_at, next(self._serial), uid))
        self._wake.set()

    def _hasten(self, uid: str, entry: _Entry, due_at: float) -> None:
        if entry.task is not None:
            entry.wanted = True
        elif due_at < entry.due_at:
            entry.due_at = due_at
            self._push(uid, due_at)

    def _start_due(self, now: float) -> None:
        while self._due and len(self._looking) < self._concurrency and self._due[0][0] <= now:
            due_at, _, uid = heapq.heappop(self._due)
            entry = self._entries.get(uid)
            # A look that was hastened leaves its former place in the heap behind.
            if entry is None or entry.task is not None or entry.due_at != due_at:
                continue
            self._metrics.look_lag_seconds.observe(now - due_at)
            entry.task = asyncio.create_task(self._look_at(uid, entry), name=f"look at {uid}")
            self._looking.add(entry.task)
            entry.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._looking.discard(task)
        self._wake.set()

    async def _look_at(self, uid: str, entry: _Entry) -> None:
        started = entry.looked_at = time.monotonic()
        kind = str(entry.body.get("kind", ""))
        entry.wanted = False
        try:
            async with asyncio.timeout(self._deadline_seconds):
                looked = await self._look(entry.body, started - entry.heard_at)
        except Exception as error:  # noqa: BLE001 - one object's trouble, whatever it is, must not end the others' looks
            again = entry.backoff.next_seconds()
            self._metrics.looks.inc(kind=kind, result="failed")
            self._tell(entry, error, again)
        else:
            entry.backoff.reset()
            self._metrics.looks.inc(kind=kind, result="gone" if looked.gone else "done")
            if looked.gone:
                self.gone(uid)
                return
            if looked.body is not None and not _is_older(looked.body, entry.body):
                entry.body, entry.heard_at = looked.body, time.monotonic()
            again = looked.again_seconds * self._rng.uniform(1 - _JITTER, 1 + _JITTER)
        finally:
            entry.task = None
            self._metrics.look_seconds.observe(time.monotonic() - started)
        if entry.wanted:
            again = min(again, _LEAST_GAP_SECONDS)
        if uid in self._entries and not self._stopping:
            entry.due_at = time.monotonic() + again
            self._push(uid, entry.due_at)

    def _tell(self, entry: _Entry, error: Exception, again_seconds: float) -> None:
        """Say why a look failed. An API server that is away fails everybody's; that is said now and then."""
        now = time.monotonic()
        if isinstance(error, Unreachable):
            if now - self._told_outage_at < _OUTAGE_SECONDS:
                return
            self._told_outage_at = now
            _log.warning("looks fail and are tried again: %s", error)
            return
        of = {"object": _name(entry.body), "again_seconds": round(again_seconds, 1)}
        _log.warning("a look failed: %s", _why(error), extra=of)
        _log.debug("how it failed", exc_info=error)


def _intent(body: Body) -> tuple[Any, bool]:
    """What a person changes: the generation moves with the spec, never with the status."""
    meta = body["metadata"]
    return meta.get("generation"), bool(meta.get("deletionTimestamp"))


def _is_older(body: Body, known: Body) -> bool:
    """Whether a body precedes another: a watch may tell of our own writing after the answer to it did."""
    try:
        return int(body["metadata"]["resourceVersion"]) < int(known["metadata"]["resourceVersion"])
    except (KeyError, ValueError):
        # Only since Kubernetes 1.35 a client may compare them; where they are no numbers the last word is taken.
        return False


def _name(body: Body) -> str:
    meta = body["metadata"]
    return f"{body.get('kind')} {meta.get('namespace')}/{meta.get('name')}"


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it took longer than its deadline"
    return f"{type(error).__name__}: {error}"

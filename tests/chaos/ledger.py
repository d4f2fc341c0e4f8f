"""The ledger: what clients were told against what is there. It believes none of the product's records of its own work.

It reads what a bookkeeper would: orders, waybills, rows that wait or are parked, and every message in every queue. What
the product notes about sending and receiving (`outbox_sent`, `inbox`, `idempotency_keys`) is not looked at. A client
writes its idempotency key into the order's ``customer``, so an order says by itself which request it came from.

The invariants (docs/failure-modes.md): every acknowledged and every committed order has exactly one waybill, or one
parked row, or one dead letter, the last two reported; no waybill lacks an order; the backlog is zero in the end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

SHOWN = 5
PARKED_ALERT, LETTER_ALERT = "OuthaulMessageParked", "OuthaulDeadLetter"


@dataclass(slots=True)
class Told:
    """What the clients asked and what they were told, by idempotency key.

    ``acknowledged`` holds every order id a key was ever answered with: more than one is a contradiction. ``unknown``
    counts requests without an answer that settles anything (no answer, 5xx, 409), ``refused`` has the last other 4xx.
    ``injected`` are ids of messages that a test itself put on the broker, made to be dead letters.
    """

    attempted: set[str] = field(default_factory=set)
    acknowledged: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    unknown: Counter[str] = field(default_factory=Counter)
    refused: dict[str, int] = field(default_factory=dict)
    injected: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Order:
    """A committed order. ``key`` is what the client wrote into it."""

    order_id: str
    message_id: str
    key: str


@dataclass(frozen=True, slots=True)
class Waybill:
    """A waybill, with the key that came along in the message."""

    order_id: str
    key: str


@dataclass(frozen=True, slots=True)
class Queued:
    """A message found in a queue."""

    queue: str
    message_id: str


@dataclass(slots=True)
class Seen:
    """What was found at the end. ``hidden`` counts messages that a queue holds and hands to nobody."""

    orders: list[Order] = field(default_factory=list)
    waybills: list[Waybill] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    parked: list[str] = field(default_factory=list)
    queued: list[Queued] = field(default_factory=list)
    hidden: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Verdict:
    """The account of a run. ``lost``, ``duplicated``, ``unexpected`` and ``unreported`` are sentences, one for each."""

    attempted: int = 0
    acknowledged: int = 0
    unknown: int = 0
    committed: int = 0
    waybills: int = 0
    recovered: int = 0
    parked: int = 0
    dead_lettered: int = 0
    backlog: int = 0
    drain_seconds: float | None = None
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    unreported: list[str] = field(default_factory=list)

    def violations(self) -> list[str]:
        """Every breach of the invariants, as sentences; none when all is well."""
        backlog = [f"the backlog is {self.backlog}, not zero"] if self.backlog else []
        return [*self.lost, *self.duplicated, *self.unexpected, *self.unreported, *backlog]

    def require_whole(self) -> None:
        """AssertionError naming the first breaches."""
        found = self.violations()
        assert not found, f"{len(found)} breaches: " + "; ".join(found[:SHOWN])

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)


def judge(told: Told, seen: Seen, *, alerts: Collection[str] = (), drain_seconds: float | None = None) -> Verdict:
    """Add up. ``alerts`` are the names of those that reached people; dead-letter queues end in ``.dlq``."""
    letters = Counter(each.message_id for each in seen.queued if each.queue.endswith(".dlq"))
    waiting = Counter(each.message_id for each in seen.queued if not each.queue.endswith(".dlq"))
    waiting.update(seen.pending)
    parked = Counter(seen.parked)
    made = Counter(each.order_id for each in seen.waybills)
    verdict = Verdict(
        attempted=len(told.attempted),
        acknowledged=len(told.acknowledged),
        unknown=len(set(told.unknown) - set(told.acknowledged)),
        committed=len(seen.orders),
        waybills=len(seen.waybills),
        parked=len(seen.parked),
        dead_lettered=letters.total(),
        backlog=waiting.total() + sum(seen.hidden.values()),
        drain_seconds=drain_seconds,
    )
    for order in seen.orders:
        ends = {"waybill": made[order.order_id], "parked row": parked[order.message_id]}
        ends["dead letter"] = letters[order.message_id]
        if sum(ends.values()) > 1:
            found = ", ".join(f"{count} {name}" for name, count in ends.items() if count)
            verdict.duplicated.append(f"order {order.order_id} ({order.key}) has {found}")
        elif not sum(ends.values()) and not waiting[order.message_id]:
            verdict.lost.append(f"order {order.order_id} ({order.key}) has neither waybill, parked row nor dead letter")
    verdict.recovered = _recovered(told, seen.orders, made)
    _compare_answers(told, seen.orders, verdict)
    _find_orphans(told, seen, verdict)
    for message_id in sorted(told.injected):
        if letters[message_id] != 1:
            kind = verdict.lost if not letters[message_id] else verdict.duplicated
            kind.append(f"message {message_id}, made to be a dead letter, is {letters[message_id]}")
    if seen.parked and PARKED_ALERT not in alerts:
        verdict.unreported.append(f"{len(seen.parked)} parked rows and nobody was told")
    if letters and LETTER_ALERT not in alerts:
        verdict.unreported.append(f"{letters.total()} dead letters and nobody was told")
    return verdict


def _recovered(told: Told, orders: Iterable[Order], made: Counter[str]) -> int:
    """Orders whose client had no clear answer at some time, and that came to one waybill all the same."""
    return sum(1 for order in orders if told.unknown[order.key] and made[order.order_id] == 1)


def _compare_answers(told: Told, orders: Iterable[Order], verdict: Verdict) -> None:
    by_key: dict[str, set[str]] = defaultdict(set)
    for order in orders:
        by_key[order.key].add(order.order_id)
    for key, ids in by_key.items():
        if len(ids) > 1:
            verdict.duplicated.append(f"key {key} has {len(ids)} orders: {', '.join(sorted(ids))}")
        if key not in told.attempted:
            verdict.unexpected.append(f"order {min(ids)} has the key {key!r} that no client used")
        elif key in told.refused and key not in told.acknowledged and not told.unknown[key]:
            verdict.unexpected.append(f"order {min(ids)} ({key}) was refused with {told.refused[key]} and is there")
    for key, answers in told.acknowledged.items():
        if len(answers) > 1:
            verdict.unexpected.append(f"key {key} was answered with {len(answers)} orders")
        for missing in sorted(answers - by_key[key]):
            verdict.lost.append(f"order {missing} ({key}) was acknowledged and is not there")


def _find_orphans(told: Told, seen: Seen, verdict: Verdict) -> None:
    keys = {order.order_id: order.key for order in seen.orders}
    messages = {order.message_id for order in seen.orders}
    for waybill in seen.waybills:
        if waybill.order_id not in keys:
            verdict.unexpected.append(f"the waybill of order {waybill.order_id} ({waybill.key}) lacks its order")
        elif waybill.key != keys[waybill.order_id]:
            verdict.unexpected.append(f"the waybill of order {waybill.order_id} is made out to {waybill.key!r}")
    rows = [("a row to be sent", each) for each in seen.pending] + [("a parked row", each) for each in seen.parked]
    for where, message_id in [*rows, *((f"a message in {each.queue}", each.message_id) for each in seen.queued)]:
        if message_id not in messages and message_id not in told.injected:
            verdict.unexpected.append(f"{where} ({message_id}) belongs to no order")

"""What is to be done about an Inbox: show what waits and what died, and tell people, even if the consumer is dead."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from outhaul.broker_admin.depths import Depths
from outhaul.topology import dead_letter_queue
from outhaul_operator.conditions import Condition, instant, merge, no, transitions, unknown, yes
from outhaul_operator.domain import diagnosis
from outhaul_operator.domain.alerting import (
    BROKER_UNREACHABLE,
    DATABASE_UNREACHABLE,
    Alarm,
    noted,
    on_condition,
    remembered,
    resolved,
)
from outhaul_operator.plan import AlertChange, Plan
from outhaul_operator.snapshot import BrokerView, DeadLetters, InboxDatabase, InboxSnapshot, Trouble
from outhaul_operator.specs import InboxSpec, Target

DEAD_LETTERS: Final = Alarm("OuthaulDeadLettersWaiting", "warning")
DEAD_LETTERING_STUCK: Final = Alarm("OuthaulDeadLetteringStuck", "critical")
NO_CONSUMER: Final = Alarm("OuthaulNoConsumer", "critical")
ALARMS: Final = (DATABASE_UNREACHABLE, BROKER_UNREACHABLE, DEAD_LETTERS, DEAD_LETTERING_STUCK, NO_CONSUMER)

_REMEDY = "create a Redrive (with dryRun: true it only tells), or one that discards them with a reason"
_REASON_CHARACTERS: Final = 200


def plan(spec: InboxSpec, snapshot: InboxSnapshot, now: datetime) -> Plan:
    """Decide. The same snapshot with the status of this plan gives the same status, and no event again."""
    target, before, broker = snapshot.target, snapshot.status, snapshot.broker
    if target.deleting:
        return Plan(status=before)
    depths = broker.depths if isinstance(broker, BrokerView) else None
    parts = (
        diagnosis.database_condition(snapshot.database),
        diagnosis.broker_condition(broker),
        _consuming(spec, broker, depths),
        _dead_letters_empty(spec, broker, depths),
        diagnosis.topology_condition(broker, declared=spec.topology is not None),
    )
    # Dead letters wait for a person while everything works: they are told apart from what does not.
    ready = diagnosis.ready_condition(
        [part for part in parts if part.type != "DeadLettersEmpty" or part.reason == "DeadLetteringStuck"],
        fine=_fine(parts[3]),
        harmless_unknown=frozenset({"DeadLettersEmpty", "TopologyInSync"}),
    )
    earlier = before.get("conditions") or ()
    conditions = merge(earlier, (ready, *parts), at=now, generation=target.generation)
    alerts = _alerts(spec, snapshot, depths, conditions, now)
    status = _status(snapshot, depths)
    status |= {"observedGeneration": target.generation, "conditions": conditions, "alerts": noted(before, alerts, now)}
    return Plan(
        status=status,
        events=transitions(earlier, parts),
        alerts=remembered(before, alerts),
        look_again_seconds=spec.interval_seconds,
    )


def gone(target: Target, status: Mapping[str, Any]) -> tuple[AlertChange, ...]:
    """The alerts that end with the object; ``status`` is the last one known."""
    return resolved(target, status, ALARMS)


def _consuming(spec: InboxSpec, broker: BrokerView | Trouble, depths: Depths | None) -> Condition:
    kind = "Consuming"
    if depths is None:
        return _not_seen(kind, broker)
    if depths.main is None:
        return no(kind, "QueueMissing", f"queue {spec.queue} does not exist; {diagnosis.APPLY}")
    if depths.main.consumers:
        return yes(kind, "Consuming", f"queue {spec.queue} is consumed")
    # What lies in a delay tier is not to be consumed yet, and scales no consumer up.
    if depths.main.ready:
        text = f"messages wait in queue {spec.queue} and nobody consumes; start the consumer, and see its log"
        return no(kind, "NoConsumer", text)
    return yes(kind, "Idle", "nobody consumes, and nothing is there to be consumed")


def _dead_letters_empty(spec: InboxSpec, broker: BrokerView | Trouble, depths: Depths | None) -> Condition:
    kind = "DeadLettersEmpty"
    if depths is None:
        return _not_seen(kind, broker)
    dead = dead_letter_queue(spec.queue)
    if depths.main is not None and depths.main.awaiting_dead_lettering:
        text = f"messages of {spec.queue} cannot get into {dead}: it is missing or full; {diagnosis.APPLY}, or empty it"
        return no(kind, "DeadLetteringStuck", text)
    if depths.dead is None:
        return no(kind, "DeadLetterQueueMissing", f"queue {dead} does not exist; {diagnosis.APPLY}")
    if depths.dead.total:
        reasons = _reasons(broker.dead_reasons if isinstance(broker, BrokerView) else ())
        return no(kind, "DeadLettersWaiting", f"dead letters wait in {dead}{reasons}; {_REMEDY}")
    return yes(kind, "Empty", f"no dead letter waits in {dead}")


def _not_seen(kind: str, broker: BrokerView | Trouble) -> Condition:
    if isinstance(broker, Trouble):
        return unknown(kind, "BrokerNotSeen", "queues cannot be seen while the broker is away")
    why = broker.unseen or Trouble("QueuesNotSeen", "the queues were not looked at")
    return unknown(kind, why.reason, why.message)


def _reasons(found: tuple[DeadLetters, ...]) -> str:
    """In words, without counts: they are in the status."""
    names = sorted({_cut(each.reason) for each in found if each.reason})
    return f" ({', '.join(names[:10])})" if names else ""


def _cut(reason: str) -> str:
    """A letter's header is as long as whoever published it liked."""
    return reason if len(reason) <= _REASON_CHARACTERS else f"{reason[: _REASON_CHARACTERS - 1]}…"


def _fine(dead: Condition) -> tuple[str, str]:
    if dead.is_false:
        return dead.reason, dead.message
    return "AsItShouldBe", "what is published is consumed"


def _status(snapshot: InboxSnapshot, depths: Depths | None) -> dict[str, Any]:
    status = dict(snapshot.status)
    if isinstance(snapshot.database, InboxDatabase):
        status["failing"] = snapshot.database.failing
    if depths is None or not isinstance(snapshot.broker, BrokerView):
        # The last counts stay, and BrokerReachable or Consuming says that they are of earlier.
        return status
    for name in ("oldestDeadAt", "deadLetterReasons"):
        status.pop(name, None)
    main, dead = depths.main, depths.dead
    tiers = [tier.total for tier in depths.tiers if tier.total is not None]
    counts = {
        "depth": 0 if main is None else main.total,
        "consumers": 0 if main is None else main.consumers,
        "deadLetters": 0 if dead is None else dead.total,
        "inRetry": sum(tiers) if len(tiers) == len(depths.tiers) else None,
    }
    # A queue just declared has no counts yet.
    status |= {name: count for name, count in counts.items() if count is not None}
    if snapshot.broker.dead_reasons:
        found = sorted(snapshot.broker.dead_reasons, key=lambda each: (-each.letters, each.reason))
        status["deadLetterReasons"] = [{"reason": _cut(each.reason), "letters": each.letters} for each in found[:20]]
    if snapshot.broker.oldest_dead_at is not None:
        status["oldestDeadAt"] = instant(snapshot.broker.oldest_dead_at)
    return status


def _alerts(
    spec: InboxSpec, snapshot: InboxSnapshot, depths: Depths | None, conditions: list[dict[str, Any]], now: datetime
) -> tuple[AlertChange, ...]:
    target, broker = snapshot.target, snapshot.broker
    found = [
        *on_condition(
            DATABASE_UNREACHABLE,
            target,
            conditions,
            "DatabaseReachable",
            summary=f"The database of {target} cannot be used",
            now=now,
        ),
        *on_condition(
            BROKER_UNREACHABLE,
            target,
            conditions,
            "BrokerReachable",
            summary=f"The broker of {target} cannot be used",
            now=now,
        ),
        *on_condition(
            NO_CONSUMER,
            target,
            conditions,
            "Consuming",
            summary=f"Nobody consumes queue {spec.queue} of {target}",
            now=now,
            grace_seconds=spec.alert_no_consumer_seconds,
        ),
        *on_condition(
            DEAD_LETTERING_STUCK,
            target,
            conditions,
            "DeadLettersEmpty",
            summary=f"Messages of {target} cannot be dead-lettered",
            now=now,
            reasons=frozenset({"DeadLetteringStuck", "DeadLetterQueueMissing"}),
        ),
    ]
    if depths is not None and depths.dead is not None and depths.dead.total is not None:
        reasons = _reasons(broker.dead_reasons if isinstance(broker, BrokerView) else ())
        change = DEAD_LETTERS.change(
            target,
            firing=depths.dead.total >= spec.alert_dead_letters,
            summary=f"{depths.dead.total} dead letters of {target} wait for a person",
            description=f"they lie in {dead_letter_queue(spec.queue)}{reasons}; {_REMEDY}",
        )
        found.append(change)
    return tuple(found)

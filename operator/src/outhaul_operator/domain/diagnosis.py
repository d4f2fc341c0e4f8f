"""Why nothing is sent, in words that name the cause and the remedy; and whether a Job could change that.

Conditions are what people read. An obstacle is a reason against starting a Job: it would fail, or do nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from outhaul.tools.findings import Finding, Level
from outhaul.tools.status import SENDING, LiveSender
from outhaul_operator.conditions import Condition, no, unknown, yes
from outhaul_operator.snapshot import BrokerView, InboxDatabase, OutboxDatabase, Trouble, WaitingRoute

APPLY: Final = "run `outhaul topology apply`, as the chart's topology Job does"
_FINDINGS: Final = {
    ("database", Level.PROBLEM): "ReadOnly",
    ("database", Level.WARNING): "OldServer",
    ("schema", Level.PROBLEM): "SchemaMissing",
    ("vacuum", Level.WARNING): "VacuumHeldBack",
    ("partitions", Level.WARNING): "PartitionsMissing",
    ("durability", Level.WARNING): "NotDurable",
}
_STANDING: Final = frozenset({"NotDurable", "OldServer"})
_MOST_NAMED: Final = 5


def database_condition(seen: OutboxDatabase | InboxDatabase | Trouble | None) -> Condition:
    """DatabaseReachable: it answers, lets us in, has the schema and takes writes."""
    kind = "DatabaseReachable"
    if seen is None:
        return unknown(kind, "NotLookedAt", "the database was not looked at")
    problem = _database_problem(seen)
    if problem is not None:
        return no(kind, problem.reason, problem.message)
    assert not isinstance(seen, Trouble)
    warnings = [finding for finding in seen.findings if finding.level is Level.WARNING]
    # The first gives the reason, and people are told when that changes: what stays as it is must not hide what comes.
    warnings.sort(key=lambda finding: _reason(finding) in _STANDING)
    if warnings:
        return yes(kind, _reason(warnings[0]), _sentences(map(_told, warnings)), warns=True)
    return yes(kind, "Reachable", "the database answers, has the schema and takes writes")


def broker_condition(seen: BrokerView | Trouble | None) -> Condition:
    """BrokerReachable: it answers, lets us in, and no alarm keeps it from taking messages."""
    kind = "BrokerReachable"
    if seen is None:
        return unknown(kind, "NotLookedAt", "the broker was not looked at")
    problem = _broker_problem(seen)
    if problem is not None:
        return no(kind, problem.reason, problem.message)
    assert isinstance(seen, BrokerView)
    if seen.unseen is not None:
        return yes(kind, seen.unseen.reason, f"the broker answers; {seen.unseen.message}")
    return yes(kind, "Reachable", f"RabbitMQ {seen.version} answers, and no alarm is on")


def routable_condition(database: OutboxDatabase | Trouble, broker: BrokerView | Trouble | None) -> Condition:
    """Routable: every exchange that rows wait for is there, and a queue is bound for their routing keys."""
    kind = "Routable"
    if isinstance(database, Trouble):
        return unknown(kind, "DatabaseNotSeen", "which routes rows wait for cannot be seen while the database is away")
    if not isinstance(broker, BrokerView):
        return unknown(kind, "BrokerNotSeen", "bindings cannot be seen while the broker is away")
    blocked = [cause for route in database.routes if (cause := blocked_route(route, broker)) is not None]
    if blocked:
        return no(kind, blocked[0].reason, _sentences(cause.message for cause in blocked))
    if broker.unseen is not None:
        return unknown(kind, broker.unseen.reason, broker.unseen.message)
    if not database.routes:
        return yes(kind, "NothingWaits", "no rows wait for any route")
    return yes(kind, "Routed", "every route that rows wait for leads to a queue")


def topology_condition(broker: BrokerView | Trouble | None, *, declared: bool) -> Condition:
    """TopologyInSync: the broker is what the topology named by ``topologyRef`` declares."""
    kind = "TopologyInSync"
    if not declared:
        return unknown(kind, "NotDeclared", "name the ConfigMap with the declared topology in spec.topologyRef")
    if not isinstance(broker, BrokerView):
        return unknown(kind, "BrokerNotSeen", "the topology cannot be compared while the broker is away")
    if isinstance(broker.differences, Trouble):
        return unknown(kind, broker.differences.reason, broker.differences.message)
    if broker.differences is None:
        why = broker.unseen or Trouble("NotCompared", "the topology was not compared")
        return unknown(kind, why.reason, why.message)
    harmful = [str(each) for each in broker.differences if not each.harmless]
    if harmful:
        return no(kind, "Drift", _sentences(harmful))
    if broker.differences:
        return yes(kind, "HarmlessDifferences", _sentences(str(each) for each in broker.differences))
    return yes(kind, "InSync", "the broker is as declared")


def obstacle(
    database: OutboxDatabase | InboxDatabase | Trouble | None, broker: BrokerView | Trouble | None
) -> Trouble | None:
    """What would make any Job fail now; None when nothing is known that would."""
    if database is None or broker is None:
        return _database_problem(database) or Trouble("NotLookedAt", "database and broker were not looked at yet")
    return _database_problem(database) or _broker_problem(broker)


def blocked_route(route: WaitingRoute, broker: BrokerView) -> Trouble | None:
    """Why nothing can be sent by that route; None when nothing is known against it."""
    if route.exchange in broker.missing_exchanges:
        return Trouble("ExchangeMissing", f"exchange {route.exchange} does not exist; {APPLY}")
    if (route.exchange, route.routing_key) in broker.unrouted:
        text = f"exchange {route.exchange} has no queue bound for {route.routing_key}; {APPLY}, or bind a queue to it"
        return Trouble("NoQueueBound", text)
    return None


def sender_at_work(database: OutboxDatabase) -> LiveSender | None:
    """A living sender that nothing keeps from sending: what is stuck is left to it, slow as it may be."""
    return next((sender for sender in database.senders if sender.state.startswith(SENDING)), None)


def who_sends(database: OutboxDatabase) -> str:
    """Why nobody sends, in words."""
    if not database.senders:
        return "no sender is alive"
    first = database.senders[0]
    more = f", nor does any of {len(database.senders) - 1} more" if len(database.senders) > 1 else ""
    return f"{first.name} on {first.host} is alive and sends nothing ({first.state}){more}"


def ready_condition(
    parts: Iterable[Condition], *, fine: tuple[str, str], harmless_unknown: frozenset[str] = frozenset()
) -> Condition:
    """Ready: the first part that does not hold gives the reason; ``fine`` is reason and message where all do."""
    conditions = list(parts)
    for condition in conditions:
        if condition.is_false:
            return no("Ready", condition.reason, condition.message)
    for condition in conditions:
        if not condition.is_true and condition.type not in harmless_unknown:
            return unknown("Ready", condition.reason, condition.message)
    return yes("Ready", *fine)


def _database_problem(seen: OutboxDatabase | InboxDatabase | Trouble | None) -> Trouble | None:
    if seen is None or isinstance(seen, Trouble):
        return seen
    problems = [finding for finding in seen.findings if finding.level is Level.PROBLEM]
    if problems:
        return Trouble(_reason(problems[0]), _sentences(map(_told, problems)))
    return None


def _broker_problem(seen: BrokerView | Trouble) -> Trouble | None:
    if isinstance(seen, Trouble):
        return seen
    if seen.alarms:
        return Trouble("BrokerAlarm", _sentences(seen.alarms))
    return None


def _reason(finding: Finding) -> str:
    word = finding.check.rsplit(" ", 1)[-1]
    return _FINDINGS.get((word, finding.level), f"Database{word.capitalize()}" if word.isalpha() else "DatabaseTrouble")


def _told(finding: Finding) -> str:
    return f"{finding.text}; {finding.remedy}" if finding.remedy else finding.text


def _sentences(texts: Iterable[str]) -> str:
    """The first few, and how many more."""
    found = list(dict.fromkeys(texts))
    more = [f"and {len(found) - _MOST_NAMED} more"] if len(found) > _MOST_NAMED else []
    return ". ".join([*found[:_MOST_NAMED], *more])

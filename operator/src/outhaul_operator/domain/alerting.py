"""Alerts of one object: labels that never change, and a grace time, so that a short trouble wakes nobody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from outhaul.alerts import Severity
from outhaul_operator.conditions import held_since, instant, instant_or_none
from outhaul_operator.plan import AlertChange
from outhaul_operator.specs import Target

GRACE_SECONDS: Final = 30.0
_SKEW_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing people are told of: its name never stands for two severities."""

    name: str
    severity: Severity

    def change(self, target: Target, *, firing: bool, summary: str = "", description: str = "") -> AlertChange:
        """The alert of this object, on or off."""
        labels = {"namespace": target.namespace, target.kind.lower(): target.name}
        return AlertChange(
            name=self.name,
            firing=firing,
            labels=labels,
            summary=summary if firing else "",
            description=description if firing else "",
            severity=self.severity,
        )


DATABASE_UNREACHABLE: Final = Alarm("OuthaulDatabaseUnreachable", "critical")
BROKER_UNREACHABLE: Final = Alarm("OuthaulBrokerUnreachable", "critical")


def resolved(target: Target, status: Mapping[str, Any], alarms: Iterable[Alarm]) -> tuple[AlertChange, ...]:
    """All of them off: the object is gone."""
    return remembered(status, [alarm.change(target, firing=False) for alarm in alarms])


def remembered(status: Mapping[str, Any], changes: Iterable[AlertChange]) -> tuple[AlertChange, ...]:
    """The changes with since when each alert is on, by the status: a restarted operator knows no other way."""
    known = _known(status)
    return tuple(replace(change, since=instant_or_none(known.get(change.name))) for change in changes)


def noted(status: Mapping[str, Any], changes: Iterable[AlertChange], now: datetime) -> dict[str, str]:
    """For ``status.alerts``: which alerts are on, and since when. Those that no change speaks of stay as they are."""
    on = dict(_known(status))
    for change in changes:
        if change.firing:
            on.setdefault(change.name, instant(now))
        else:
            on.pop(change.name, None)
    return {name: on[name] for name in sorted(on)}


def _known(status: Mapping[str, Any]) -> Mapping[str, Any]:
    known = status.get("alerts")
    return known if isinstance(known, Mapping) else {}


def on_condition(
    alarm: Alarm,
    target: Target,
    conditions: Sequence[Mapping[str, Any]],
    kind: str,
    *,
    summary: str,
    now: datetime,
    grace_seconds: float = GRACE_SECONDS,
    reasons: frozenset[str] | None = None,
) -> tuple[AlertChange, ...]:
    """On while the condition has been False for so long (for one of ``reasons``); nothing while it is Unknown."""
    condition = next((each for each in conditions if each.get("type") == kind), {})
    if condition.get("status") == "Unknown":
        return ()
    since = held_since(conditions, kind, "False")
    # An instant far ahead was written by an operator whose clock was wrong, and says nothing.
    firing = since is not None and not -_SKEW_SECONDS <= (now - since).total_seconds() < grace_seconds
    if firing and reasons is not None and condition.get("reason") not in reasons:
        firing = False
    return (alarm.change(target, firing=firing, summary=summary, description=str(condition.get("message", ""))),)

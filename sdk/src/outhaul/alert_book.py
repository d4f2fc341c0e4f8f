"""Which alerts are due to be told, and when: grouped by name, rate-limited, bounded in memory. Pure but for its state.

Times are seconds of a monotonic clock, given by the caller; only ``starts_at`` and ``ends_at`` are of the wall clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from outhaul.backoff import Backoff

Key = tuple[str, tuple[tuple[str, str], ...]]

_OWN = "Outhaul"


class Taken(Enum):
    """What became of a fire."""

    NEW = "new"
    KNOWN = "known"
    """Nothing to do for it now."""
    REPEATED = "repeated"
    """The first since people were told: they are told again later."""
    DROPPED = "dropped"


@dataclass(slots=True)
class Alert:
    """One alert by name and labels. ``due_at`` is when people may be told of its latest change; None: they know."""

    name: str
    labels: Mapping[str, str]
    annotations: dict[str, str]
    starts_at: datetime
    ends_at: datetime | None = None
    occurrences: int = 1
    due_at: float | None = None
    told_at: float | None = None
    handed_out: bool = False

    def as_json(self) -> dict[str, Any]:
        """As Alertmanager's webhook carries it."""
        return {
            "status": "firing" if self.ends_at is None else "resolved",
            "labels": {"alertname": self.name, **self.labels},
            "annotations": {**self.annotations, **_runbook(self.name), "occurrences": str(self.occurrences)},
            "startsAt": self.starts_at.isoformat(),
            "endsAt": self.ends_at.isoformat() if self.ends_at else "0001-01-01T00:00:00Z",  # Alertmanager's "not yet"
            "generatorURL": "",
            "fingerprint": hashlib.sha256(repr(_key(self.name, self.labels)).encode()).hexdigest()[:16],
        }


@dataclass(slots=True)
class _Group:
    """All alerts of one name: they are told together, and never before ``not_before``."""

    not_before: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(base_seconds=1.0, cap_seconds=60.0))


@dataclass(frozen=True, slots=True)
class Batch:
    """What to tell now of one group; ``truncated`` more of it wait for the next."""

    name: str
    alerts: tuple[Alert, ...]
    truncated: int

    def as_json(self) -> dict[str, Any]:
        """Alertmanager's webhook body, version 4 (https://prometheus.io/docs/alerting/latest/configuration/)."""
        alerts = [alert.as_json() for alert in self.alerts]
        return {
            "version": "4",
            "groupKey": f'{{}}:{{alertname="{self.name}"}}',
            "truncatedAlerts": self.truncated,
            "status": "firing" if any(alert["status"] == "firing" for alert in alerts) else "resolved",
            "receiver": "outhaul",
            "groupLabels": {"alertname": self.name},
            "commonLabels": _common([alert["labels"] for alert in alerts]),
            "commonAnnotations": _common([alert["annotations"] for alert in alerts]),
            "externalURL": "",
            "alerts": alerts,
        }


@dataclass(slots=True)
class AlertBook:
    """Alerts until they are told and resolved; at most ``most_alerts``, the longest-told of which make room."""

    group_wait_seconds: float = 0.5
    group_interval_seconds: float = 30.0
    repeat_seconds: float = 600.0
    most_alerts: int = 1000
    most_in_batch: int = 100
    _alerts: dict[Key, Alert] = field(default_factory=dict)
    _groups: dict[str, _Group] = field(default_factory=dict)
    _posting: Batch | None = None

    def fire(
        self, name: str, labels: Mapping[str, str], annotations: Mapping[str, str], *, now: float, at: datetime
    ) -> Taken:
        """An alert began, or happened again: people are told soon, and once in ``repeat_seconds`` after that."""
        known = self._alerts.get(_key(name, labels))
        if known is not None and known.ends_at is None:
            known.occurrences += 1
            known.annotations = dict(annotations)
            if not known.handed_out or known.due_at is not None:
                return Taken.KNOWN
            known.due_at = (now if known.told_at is None else known.told_at) + self.repeat_seconds
            return Taken.REPEATED
        if known is not None:
            known.ends_at, known.starts_at, known.occurrences = None, at, 1
            known.annotations = dict(annotations)
        elif len(self._alerts) >= self.most_alerts and not self._make_room():
            return Taken.DROPPED
        else:
            known = self._alerts[_key(name, labels)] = Alert(name, dict(labels), dict(annotations), at)
        known.due_at = _sooner(known.due_at, now + self.group_wait_seconds)
        return Taken.NEW

    def resolve(
        self,
        name: str,
        labels: Mapping[str, str],
        *,
        now: float,
        at: datetime,
        fired_at: datetime | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> bool:
        """An alert ended; one that nobody was told of is forgotten. Whether there is something to tell.

        ``fired_at``: when an earlier process told people of it, who still wait to hear that it is over.
        """
        known = self._alerts.get(_key(name, labels))
        if known is None and fired_at is not None and (len(self._alerts) < self.most_alerts or self._make_room()):
            known = Alert(name, dict(labels), dict(annotations or {}), fired_at, handed_out=True)
            self._alerts[_key(name, labels)] = known
        if known is None or known.ends_at is not None:
            return False
        if known.handed_out:
            known.ends_at = at
            known.due_at = _sooner(known.due_at, now + self.group_wait_seconds)
        else:
            del self._alerts[_key(name, labels)]
        return True

    def due(self, now: float, *, at_once: bool = False) -> tuple[Batch | None, float | None]:
        """What to tell now, and else when to ask again; None for never. ``at_once``: no waiting, for the end.

        What was handed out must be answered by `delivered` or `failed` before the next is asked for.
        """
        times: dict[str, float] = {}
        for alert in self._alerts.values():
            if alert.due_at is not None:
                group = self._groups.setdefault(alert.name, _Group())
                when = max(alert.due_at, group.not_before)
                times[alert.name] = min(when, times.get(alert.name, when))
        if not times:
            return None, None
        name = min(times, key=times.__getitem__)
        if times[name] > now and not at_once:
            return None, times[name]
        # What is new joins what is due; a repetition waits for its own time.
        soon = now + self.group_wait_seconds
        waiting = [
            alert
            for alert in self._alerts.values()
            if alert.name == name and alert.due_at is not None and (at_once or alert.due_at <= soon)
        ]
        told = tuple(waiting[: self.most_in_batch])
        for alert in told:
            alert.handed_out = True
            alert.due_at = None
        self._posting = Batch(name, told, len(waiting) - len(told))
        return self._posting, None

    def delivered(self, batch: Batch, now: float) -> None:
        """People were told; what changed meanwhile is due again."""
        self._posting = None
        for alert in batch.alerts:
            alert.told_at = now
            if alert.ends_at is not None and alert.due_at is None:
                self._alerts.pop(_key(alert.name, alert.labels), None)
        group = self._groups.setdefault(batch.name, _Group())
        group.backoff.reset()
        group.not_before = now + (self.group_wait_seconds if batch.truncated else self.group_interval_seconds)

    def failed(self, batch: Batch, now: float) -> None:
        """People could not be told; it stays due after a pause that grows."""
        self._posting = None
        for alert in batch.alerts:
            alert.due_at = _sooner(alert.due_at, now)
        group = self._groups.setdefault(batch.name, _Group())
        group.not_before = now + group.backoff.next_seconds()

    def untold(self) -> int:
        """How many alerts have a change that nobody was told of yet."""
        posting = len(self._posting.alerts) if self._posting is not None else 0
        return posting + sum(1 for alert in self._alerts.values() if alert.due_at is not None)

    def _make_room(self) -> bool:
        """Forget the alert that was told longest ago, so that a new one can be told."""
        told = [
            (alert.told_at, key)
            for key, alert in self._alerts.items()
            if alert.told_at is not None and alert.due_at is None
        ]
        if not told:
            return False
        del self._alerts[min(told)[1]]
        in_use = {alert.name for alert in self._alerts.values()}
        self._groups = {name: group for name, group in self._groups.items() if name in in_use}
        return True


def _sooner(due_at: float | None, when: float) -> float:
    return when if due_at is None else min(due_at, when)


def _runbook(name: str) -> dict[str, str]:
    """Where these docs say what to do, as the Prometheus rules tell it; an alert of somebody else's has no page."""
    return {"runbook_page": f"docs/runbooks.md#{name.lower()}"} if name.startswith(_OWN) else {}


def _key(name: str, labels: Mapping[str, str]) -> Key:
    return name, tuple(sorted(labels.items()))


def _common(tables: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What all of them say alike."""
    first, *rest = tables
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in rest)}

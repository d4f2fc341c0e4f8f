"""What is to be done after a look: a value, carried out by `outhaul_operator.looking` in this order.

1. Write ``status`` when it differs from the one last written, guarded by the object's resourceVersion. On a conflict
   stop: somebody else decided meanwhile, look again.
2. Create ``jobs``. A name that exists already is fine: it is the same decision.
3. Set the ttl of the finished Jobs in ``expire``: their result is in the status now.
4. Tell ``events`` (they are of transitions only), fire and resolve ``alerts``.
5. ``tend`` the history, when it is due.

The status says "this Job is decided" before the Job exists, so whoever comes after a crash makes the same Job, by the
same name, and never a second one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from outhaul.alerts import Severity
from outhaul_operator.requests import RunRequest
from outhaul_operator.specs import BrokerRef, SecretRef


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """One Job: its name is its decision's, and the id of its run. ``actor`` goes on record as who asked for it."""

    name: str
    run: RunRequest
    database: SecretRef
    broker: BrokerRef
    actor: str
    deadline_seconds: int = 3600


@dataclass(frozen=True, slots=True)
class EventNote:
    """An event on the object. ``reason`` is CamelCase."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertChange:
    """Whether an alert is on. Given at every look that could tell; one that is left out stays as it is.

    ``name``, ``labels`` and ``severity`` tell one alert from another and stay the same while it is on. ``since``: when
    it went on, as the status remembers it over a restart; None where it was not on.
    """

    name: str
    firing: bool
    labels: Mapping[str, str]
    summary: str = ""
    description: str = ""
    severity: Severity = "warning"
    since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tend:
    """Make partitions ahead, and where ``keep_days`` is given drop those of the history that are older."""

    component: Literal["outbox", "inbox"]
    keep_days: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done. ``status`` is the whole new status. ``look_again_seconds`` None: when the object changes."""

    status: Mapping[str, Any]
    jobs: tuple[JobRequest, ...] = ()
    expire: tuple[str, ...] = ()
    events: tuple[EventNote, ...] = ()
    alerts: tuple[AlertChange, ...] = ()
    tend: Tend | None = None
    look_again_seconds: float | None = field(default=None)

"""An object about which nothing can be decided: nothing is done, and its status says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from outhaul.errors import ConfigurationError
from outhaul_operator.conditions import merge, no, transitions
from outhaul_operator.plan import Plan
from outhaul_operator.snapshot import Trouble
from outhaul_operator.specs import Target

_AGAIN_SECONDS = 30.0


def plan(target: Target, status: Mapping[str, Any], trouble: Trouble, now: datetime) -> Plan:
    """Say so on the object. What was decided earlier goes on, and counts of earlier looks stay."""
    before = status.get("conditions") or ()
    ready = no("Ready", trouble.reason, trouble.message)
    conditions = merge(before, (ready,), at=now, generation=target.generation)
    kept = [each for each in before if each.get("type") != "Ready"]
    return Plan(
        status={**status, "observedGeneration": target.generation, "conditions": [*conditions, *kept]},
        events=transitions(before, (ready,)),
        look_again_seconds=_AGAIN_SECONDS,
    )


def by_spec(target: Target, status: Mapping[str, Any], error: ConfigurationError, now: datetime) -> Plan:
    """Its spec cannot be read: it is looked at again when that changes. Jobs that run already end by themselves."""
    words = f"{error}. Correct the field; nothing is done for this object until then."
    planned = plan(target, status, Trouble("InvalidSpec", words), now)
    return replace(planned, look_again_seconds=None)

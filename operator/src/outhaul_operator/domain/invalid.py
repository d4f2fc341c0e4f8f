"""An object whose spec cannot be read: nothing is done about it, and its status says why."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from outhaul.errors import ConfigurationError
from outhaul_operator.conditions import merge, no, transitions
from outhaul_operator.plan import Plan
from outhaul_operator.specs import Target


def plan(target: Target, status: Mapping[str, Any], error: ConfigurationError, now: datetime) -> Plan:
    """Say so on the object. Jobs that run already end by themselves; counts of earlier looks stay."""
    before = status.get("conditions") or ()
    ready = no("Ready", "InvalidSpec", f"{error}. Correct the field; nothing is done for this object until then.")
    conditions = merge(before, (ready,), at=now, generation=target.generation)
    kept = [each for each in before if each.get("type") != "Ready"]
    return Plan(
        status={**status, "observedGeneration": target.generation, "conditions": [*conditions, *kept]},
        events=transitions(before, (ready,)),
    )

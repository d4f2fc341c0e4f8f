"""Conditions after the Kubernetes API conventions: the instant of the last transition moves only on a transition.

https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from outhaul_operator.plan import EventNote

Status = Literal["True", "False", "Unknown"]
# Far below the resource definitions' bound (32768), beyond which the whole status would be refused; events take 1024.
MESSAGE_CHARACTERS = 900


@dataclass(frozen=True, slots=True)
class Condition:
    """One statement about an object. ``reason`` is CamelCase, ``message`` for people: cause and remedy.

    ``warns``: people are told although it holds.
    """

    type: str
    status: Status
    reason: str
    message: str = ""
    warns: bool = False

    @property
    def is_true(self) -> bool:
        """Whether it holds."""
        return self.status == "True"

    @property
    def is_false(self) -> bool:
        """Whether it is known not to hold."""
        return self.status == "False"


def yes(kind: str, reason: str, message: str = "", *, warns: bool = False) -> Condition:
    """It holds."""
    return Condition(kind, "True", reason, message, warns)


def no(kind: str, reason: str, message: str) -> Condition:
    """It does not hold, and here is why and what to do."""
    return Condition(kind, "False", reason, message, warns=True)


def unknown(kind: str, reason: str, message: str) -> Condition:
    """It could not be seen."""
    return Condition(kind, "Unknown", reason, message)


def merge(
    before: Sequence[Mapping[str, Any]], now: Iterable[Condition], *, at: datetime, generation: int
) -> list[dict[str, Any]]:
    """The conditions as they go into the status; those of other types are not kept."""
    known = {str(each.get("type")): each for each in before}
    merged = []
    for condition in now:
        old = known.get(condition.type, {})
        same = old.get("status") == condition.status and bool(old.get("lastTransitionTime"))
        merged.append(
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                "message": shortened(condition.message),
                "lastTransitionTime": old["lastTransitionTime"] if same else instant(at),
                "observedGeneration": generation,
            }
        )
    return merged


def transitions(before: Sequence[Mapping[str, Any]], now: Iterable[Condition]) -> tuple[EventNote, ...]:
    """What people are told: that something began to be wrong, for another reason than before, or is well again."""
    known = {str(each.get("type")): (each.get("status"), each.get("reason")) for each in before}
    notes = []
    for condition in now:
        told = known.get(condition.type, (None, None))
        if condition.warns and told != (condition.status, condition.reason):
            notes.append(EventNote("Warning", condition.reason, f"{condition.type}: {shortened(condition.message)}"))
        elif condition.is_true and told[0] == "False":
            notes.append(EventNote("Normal", condition.type, shortened(condition.message) or "as it should be again"))
    return tuple(notes)


def held_since(conditions: Iterable[Mapping[str, Any]], kind: str, status: Status) -> datetime | None:
    """Since when the condition has had that status; None where it has another."""
    for each in conditions:
        if each.get("type") == kind and each.get("status") == status:
            return instant_or_none(each.get("lastTransitionTime"))
    return None


def instant(at: datetime) -> str:
    """As the API writes instants: UTC, to the second."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def instant_or_none(text: object) -> datetime | None:
    """An instant of a status; None for what is none."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def shortened(text: str) -> str:
    """At most so many characters as a condition's message may have."""
    return text if len(text) <= MESSAGE_CHARACTERS else f"{text[: MESSAGE_CHARACTERS - 1]}…"

"""What a look at the system found, each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How much a finding matters. Only PROBLEM and WARNING are things for a person to act on."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: ``check`` names it, ``text`` says what was seen, ``remedy`` what to do about it."""

    check: str
    level: Level
    text: str
    remedy: str = ""

    @property
    def needs_somebody(self) -> bool:
        """Whether a person should act."""
        return self.level in {Level.WARNING, Level.PROBLEM}


def need_somebody(findings: Iterable[Finding]) -> bool:
    """Whether any of the findings is one for a person to act on."""
    return any(finding.needs_somebody for finding in findings)

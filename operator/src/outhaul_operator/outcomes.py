"""How a Job ends: its exit code, and the JSON it leaves in the pod's termination message.

Codes from 64 to 69 are hopeless: the same Job again would end the same, so the Job's ``podFailurePolicy`` fails it at
once. Any other code but 0 is tried again within the Job's ``backoffLimit``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

DONE: Final = 0
OUTAGE: Final = 1
"""Broker or database stayed away, or the run was stopped: tried again."""
USAGE: Final = 64
BAD_REQUEST: Final = 65
SCHEMA_MISSING: Final = 66
REFUSED: Final = 67
"""Credentials or permissions are refused."""
READ_ONLY: Final = 68
NOT_TAKEN: Final = 69
"""What is left cannot be sent now: a route, exchange or queue is missing, or the broker refuses the messages."""
HOPELESS: Final = range(USAGE, NOT_TAKEN + 1)

TERMINATION_FILE: Final = "/dev/termination-log"
MESSAGE_BYTES: Final = 3000
"""A pod's termination message holds 4096 bytes; the counts must fit beside the words."""
_REASON: Final = re.compile(r"[A-Za-z]{1,100}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What a run did. ``reason`` is CamelCase and "" when all is done; ``message`` says cause and remedy in words.

    ``counts``: of a resend those of `outhaul.resend.ResendProgress`, of a redrive those of `outhaul.tools.redrive`.
    """

    reason: str = ""
    message: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    done_before: bool = False

    def document(self) -> dict[str, Any]:
        """As JSON, short enough for a termination message."""
        message = self.message.encode()[:MESSAGE_BYTES].decode(errors="ignore")
        return {
            "reason": self.reason,
            "message": message,
            "counts": dict(self.counts),
            "done_before": self.done_before,
        }

    @classmethod
    def from_document(cls, document: object) -> Self | None:
        """From JSON; None where it is not such a report: a pod that was killed leaves none, or something else."""
        if not isinstance(document, Mapping) or not isinstance(document.get("counts"), Mapping):
            return None
        counts = {str(name): count for name, count in document["counts"].items() if isinstance(count, int)}
        return cls(
            reason=_reason(document.get("reason")),
            message=str(document.get("message", "")),
            counts=counts,
            done_before=bool(document.get("done_before", False)),
        )


def _reason(given: object) -> str:
    """A reason as a condition takes it; "" for anything else, which would have the whole status refused."""
    return given if isinstance(given, str) and _REASON.fullmatch(given) else ""

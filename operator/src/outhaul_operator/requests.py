"""What a Job is asked to do: written by the operator as JSON into the Job, read there by `outhaul_operator.work`.

Only values of a validated resource go in: no image, command, host or SQL. Addresses come from Secrets, beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from outhaul.errors import ConfigurationError
from outhaul.tools.letters import Filter

RUN_ID_VARIABLE = "OUTHAUL_RUN_ID"
REQUEST_VARIABLE = "OUTHAUL_RUN_REQUEST"
ACTOR_VARIABLE = "OUTHAUL_ACTOR"
DATABASE_VARIABLE = "OUTHAUL_DATABASE_URL"
BROKER_VARIABLE = "OUTHAUL_AMQP_URL"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResendRun:
    """Send rows of an outbox: these ids, those of a span, the parked ones, or with none of them whatever is free.

    ``limit``: the most rows this run takes; None for all that are meant. ``max_attempts``: refusals by the broker of
    one message, all runs counted together, before it is parked.
    """

    limit: int | None = None
    max_attempts: int = 5
    message_ids: tuple[UUID, ...] = ()
    created_between: tuple[datetime, datetime] | None = None
    parked: bool = False

    command = "resend"

    def document(self) -> dict[str, Any]:
        """As JSON."""
        found: dict[str, Any] = {"max_attempts": self.max_attempts}
        if self.limit is not None:
            found["limit"] = self.limit
        if self.message_ids:
            found["message_ids"] = [str(each) for each in self.message_ids]
        if self.created_between is not None:
            found["created_between"] = [each.isoformat() for each in self.created_between]
        if self.parked:
            found["parked"] = True
        return found

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """From JSON. Raises ConfigurationError naming the variable it came by."""
        with _Reading(document):
            between, limit = document.get("created_between"), document.get("limit")
            return cls(
                limit=None if limit is None else int(limit),
                max_attempts=int(document["max_attempts"]),
                message_ids=tuple(UUID(each) for each in document.get("message_ids", ())),
                created_between=None
                if between is None
                else (datetime.fromisoformat(between[0]), datetime.fromisoformat(between[1])),
                parked=bool(document.get("parked", False)),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveRun:
    """Move dead letters of ``queue`` back, or with ``discard_reason`` give them up for good."""

    queue: str
    consumer: str
    filter: Filter = field(default_factory=Filter)
    limit: int = 1000
    rate_per_second: int = 100
    dry_run: bool = False
    discard_reason: str = ""
    force: bool = False

    command = "redrive"

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "queue": self.queue,
            "consumer": self.consumer,
            "filter": self.filter.request(),
            "limit": self.limit,
            "rate_per_second": self.rate_per_second,
            "dry_run": self.dry_run,
            "discard_reason": self.discard_reason,
            "force": self.force,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """From JSON. Raises ConfigurationError naming the variable it came by."""
        with _Reading(document):
            chosen = document["filter"]
            lists = {name: tuple(map(str, chosen.get(name, ()))) for name in ("reasons", "types", "ids", "subjects")}
            return cls(
                queue=str(document["queue"]),
                consumer=str(document["consumer"]),
                filter=Filter(
                    **lists,
                    older_than_seconds=_seconds(chosen.get("older_than_seconds")),
                    younger_than_seconds=_seconds(chosen.get("younger_than_seconds")),
                ),
                limit=int(document["limit"]),
                rate_per_second=int(document["rate_per_second"]),
                dry_run=bool(document["dry_run"]),
                discard_reason=str(document["discard_reason"]),
                force=bool(document["force"]),
            )


def _seconds(value: Any) -> float | None:
    return None if value is None else float(value)


RunRequest = ResendRun | RedriveRun


class _Reading:
    """Turns whatever a document of the wrong shape raises into one error that names where it came from."""

    def __init__(self, document: object) -> None:
        self._document = document

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Name the variable."""
        if isinstance(error, (KeyError, TypeError, ValueError, AttributeError, IndexError)):
            remedy = "it is written by the operator; operator and Job must be of one release"
            raise ConfigurationError(REQUEST_VARIABLE, self._document, remedy) from error

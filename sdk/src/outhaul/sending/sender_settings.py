"""The bounds of a sender, refused early where they contradict each other."""

from __future__ import annotations

from dataclasses import dataclass

from outhaul.errors import ConfigurationError
from outhaul.publisher import CONFIRM_TIMEOUT_SECONDS, WINDOW_BYTES, WINDOW_MESSAGES

# What a flush may take beside its interval: the statement itself, on a database under load.
FLUSH_ALLOWANCE_SECONDS = 5.0
# What the schema's outhaul_drop_partitions() takes.
MOST_HISTORY_DAYS = 36_500


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderSettings:
    """How much a sender takes at once, and how long it waits. Times in seconds.

    ``lease_seconds``: for how long a claimed row is this sender's; after it, another sender may take the row.
    ``unsafe_lease``: take a lease too short for its confirms, as a test of what comes of that: rows sent several times.
    ``claim_rows``: rows claimed at once at most; fewer when they drain slowly, so that a claim ends within its lease.
    ``unmarked_rows``: confirmed rows not yet marked in the database; beyond it nothing more is published.
    ``hand_over_rows``: rows a producer in this process may have leased and handed over at once.
    ``max_attempts``: refusals of one message by the broker itself before it is parked; outages spend none.
    ``history_days``: days of `outbox_sent` kept; None leaves the history alone. Of several senders of one outbox, the
    one that keeps least decides.
    """

    lease_seconds: float = 60.0
    confirm_timeout_seconds: float = CONFIRM_TIMEOUT_SECONDS
    window_messages: int = WINDOW_MESSAGES
    window_bytes: int = WINDOW_BYTES
    claim_rows: int = 1000
    flush_rows: int = 200
    flush_seconds: float = 0.02
    unmarked_rows: int = 10_000
    hand_over_rows: int = 1000
    poll_seconds: float = 1.0
    statement_timeout_seconds: float = 30.0
    max_attempts: int = 8
    refused_base_seconds: float = 1.0
    refused_cap_seconds: float = 300.0
    heartbeat_seconds: float = 10.0
    housekeeping_seconds: float = 3600.0
    history_days: int | None = 30
    drain_seconds: float = 10.0
    prepared_statements: bool = True
    unsafe_lease: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the way out."""
        for name in (
            "lease_seconds",
            "confirm_timeout_seconds",
            "flush_seconds",
            "poll_seconds",
            "statement_timeout_seconds",
            "heartbeat_seconds",
            "housekeeping_seconds",
        ):
            if getattr(self, name) <= 0:
                raise ConfigurationError(name, getattr(self, name), "must be above 0 seconds")
        for name in ("window_messages", "window_bytes", "claim_rows", "flush_rows", "unmarked_rows", "max_attempts"):
            if getattr(self, name) < 1:
                raise ConfigurationError(name, getattr(self, name), "must be at least 1")
        if self.history_days is not None and not 1 <= self.history_days <= MOST_HISTORY_DAYS:
            raise ConfigurationError(
                "history_days", self.history_days, f"must be from 1 to {MOST_HISTORY_DAYS}, or None to keep it for ever"
            )
        for name in ("hand_over_rows", "drain_seconds"):
            if getattr(self, name) < 0:
                raise ConfigurationError(name, getattr(self, name), "must not be negative")
        least = self.confirm_timeout_seconds + self.flush_seconds + FLUSH_ALLOWANCE_SECONDS
        if self.lease_seconds < least and not self.unsafe_lease:
            raise ConfigurationError(
                "lease_seconds",
                self.lease_seconds,
                f"must be at least {least:g}: the confirm deadline ({self.confirm_timeout_seconds:g}) and the time to "
                "mark what was confirmed, else every sender would take rows that are already on their way",
            )

    @property
    def least_lease_seconds(self) -> float:
        """What must be left of a lease for its row to be published: the confirm deadline."""
        if self.unsafe_lease:
            # Nothing would ever be published under a lease shorter than that.
            return min(self.confirm_timeout_seconds, self.lease_seconds / 2)
        return self.confirm_timeout_seconds

"""When a sender tells people: a parked message, a route that stays broken, a part that stays away.

A short trouble heals by itself and wakes nobody; labels are few, so that one cause is one alert.
"""

from __future__ import annotations

from outhaul.alerts import Alerter
from outhaul.sending.breaker import Route
from outhaul.sending.engine import Engine
from outhaul.sending.pump import Setback

ROUTE_ALERT_SECONDS = 10.0
PART_ALERT_SECONDS = 30.0


class SenderAlerts:
    """Looks at an engine now and then; remembers what it has told, to take it back when it is over."""

    def __init__(self, alerter: Alerter, *, sender: str, broker: str, database: str) -> None:
        self._alerter = alerter
        self._sender = sender
        self._parts = {"broker": broker, "database": database}
        self._routes: set[Route] = set()
        self._away_since: dict[str, float] = {}

    def parked(self, setback: Setback, max_attempts: int) -> None:
        """A message was given up on: it needs a person."""
        row = setback.row
        self._alerter.fire(
            "OuthaulMessageParked",
            labels={"exchange": row.exchange, "routing_key": row.routing_key, "reason": "refused"},
            summary=f"The broker refuses a message of {row.exchange}/{row.routing_key} for itself",
            description=(
                f"message {row.message_id} ({row.type}, {row.aggregate_id}) is parked after {max_attempts} refusals: "
                f"{setback.reason}. Mend the cause and `outhaul resend --parked`, or give it up: `outhaul discard`."
            ),
        )

    def look(self, engine: Engine, now: float) -> None:
        """Fire and resolve by what the engine shows; ``now`` in monotonic seconds."""
        self._look_at_routes(engine)
        state = engine.publisher.state
        away = state.status not in {"connected", "reopening"}
        self._look_at("broker", f"{state.status}: {state.detail}" if away else "", now)
        self._look_at("database", engine.work_link.trouble or engine.mark_link.trouble, now)

    def _look_at_routes(self, engine: Engine) -> None:
        broken = {(each.exchange, each.routing_key): each for each in engine.troubles()}
        for route, trouble in broken.items():
            if trouble.for_seconds >= ROUTE_ALERT_SECONDS:
                self._routes.add(route)
                self._alerter.fire(
                    "OuthaulRouteBroken",
                    labels={"exchange": trouble.exchange, "routing_key": trouble.routing_key},
                    summary=f"{trouble.exchange}/{trouble.routing_key} takes no messages: {trouble.kind}",
                    description=f"{trouble.reason}. The rows stay pending and go out once the cause is gone.",
                )
        for exchange, routing_key in self._routes - broken.keys():
            self._routes.discard((exchange, routing_key))
            self._alerter.resolve("OuthaulRouteBroken", labels={"exchange": exchange, "routing_key": routing_key})

    def _look_at(self, part: str, trouble: str, now: float) -> None:
        name = f"Outhaul{part.capitalize()}Unreachable"
        labels = {"sender": self._sender, part: self._parts[part]}
        if not trouble:
            if self._away_since.pop(part, None) is not None:
                self._alerter.resolve(name, labels=labels)
            return
        if now - self._away_since.setdefault(part, now) >= PART_ALERT_SECONDS:
            self._alerter.fire(
                name,
                labels=labels,
                summary=f"{self._sender} has sent nothing for {PART_ALERT_SECONDS:g} s and more: no {part}",
                description=f"{self._parts[part]}: {trouble}",
            )

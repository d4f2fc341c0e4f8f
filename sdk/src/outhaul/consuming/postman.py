"""Brings failed messages to their delay tier and given-up ones to the dead letters, over a connection of their own.

A connection that publishes never consumes: one the broker blocks in a memory alarm would deliver nothing either. The
message is acked only once the broker has confirmed its copy.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from uuid import uuid4

from outhaul.alerts import Alerter
from outhaul.amqp.outgoing import Outcome as Published
from outhaul.amqp.outgoing import Outgoing
from outhaul.backoff import Backoff
from outhaul.consuming.delivery import Outcome, Result
from outhaul.consuming.subscription import Subscription
from outhaul.deadletter import Reason
from outhaul.events import CLOUDEVENTS_JSON
from outhaul.failpoints import LETTER_ACK
from outhaul.metrics import Metrics
from outhaul.publisher import Publisher
from outhaul.topology import DEAD_LETTER_EXCHANGE, RETRY_EXCHANGE

_log = logging.getLogger(__name__)

LETTER_SECONDS = 10.0


class Postman:
    """One consumer's. ``on_ended(message_ids)`` is called once letters are with the broker's dead letters."""

    def __init__(
        self,
        publisher: Publisher,
        *,
        queue: str,
        consumer: str,
        on_ended: Callable[[Iterable[str]], None],
        metrics: Metrics,
        alerter: Alerter,
        letter_seconds: float = LETTER_SECONDS,
    ) -> None:
        self._publisher = publisher
        self._queue = queue
        self._consumer = consumer
        self._on_ended = on_ended
        self._metrics = metrics
        self._alerter = alerter
        self._letter_seconds = letter_seconds

    async def send(self, subscription: Subscription, outcome: Outcome) -> None:
        """Publish it, await the confirm, then ack; for as long as the subscription lasts."""
        if outcome.result is Result.RETRIED:
            await self._send_to_tier(subscription, outcome)
        else:
            await self._send_to_dead_letters(subscription, outcome)

    async def _send_to_tier(self, subscription: Subscription, outcome: Outcome) -> None:
        """Until it is confirmed. Meanwhile the message stays unacked, and once the window is full of such ones nothing
        more is taken: a missing tier must neither lose messages nor spend their attempts in a hot loop.
        """
        backoff = Backoff(base_seconds=0.5, cap_seconds=15.0)
        labels = {"consumer": self._consumer, "queue": self._queue, "tier": outcome.tier}
        troubled = False
        while subscription.is_open:
            published, why = await self._publish(RETRY_EXCHANGE, outcome.tier, outcome)
            if published is Published.CONFIRMED:
                subscription.ack([outcome.delivery.tag])
                self._metrics.retries.inc()
                if troubled:
                    self._alerter.resolve("OuthaulRetryUnreachable", labels=labels)
                return
            if published is Published.REFUSED:
                _log.error("message %s cannot be retried: %s", outcome.message_id, why)
                subscription.reject(outcome.delivery.tag)
                self._given_up(outcome, Reason.REJECTED)  # as the broker's own dead-lettering will call it
                return
            if not troubled:
                troubled = True
                _log.error("delay tier %s of %s: %s", outcome.tier, RETRY_EXCHANGE, why)
                self._alerter.fire(
                    "OuthaulRetryUnreachable",
                    labels=labels,
                    summary=f"{self._consumer} cannot put a failed message into {outcome.tier}",
                    description=f"{why}. The message is kept unacked. Declare the tier: `outhaul topology apply`.",
                )
            await asyncio.sleep(backoff.next_seconds())

    async def _send_to_dead_letters(self, subscription: Subscription, outcome: Outcome) -> None:
        assert outcome.letter is not None
        published, why = await self._publish(DEAD_LETTER_EXCHANGE, self._queue, outcome)
        if published is Published.CONFIRMED:
            subscription.ack([outcome.delivery.tag])
        else:
            _log.error("%s: %s; the message is left to the broker's own dead-lettering", DEAD_LETTER_EXCHANGE, why)
            subscription.reject(outcome.delivery.tag)
        self._given_up(outcome, outcome.letter.reason)

    def _given_up(self, outcome: Outcome, reason: str) -> None:
        """It is a dead letter, ours or the broker's: people are told."""
        self._metrics.dead_letters.inc(reason=reason)
        self._alerter.fire(
            "OuthaulDeadLetter",
            labels={"consumer": self._consumer, "queue": self._queue, "reason": reason},
            summary=f"{self._consumer} gave up a message of {self._queue}: {reason}",
            # Not the error's text, which may quote the payload: the webhook's reader is anybody.
            description="`outhaul dlq list` tells why. Repair and redrive it, or discard it with a reason.",
        )
        if outcome.message_id is not None:
            self._on_ended([outcome.message_id])

    async def _publish(self, exchange: str, routing_key: str, outcome: Outcome) -> tuple[Published, str]:
        delivery, letter = outcome.delivery, outcome.letter
        assert letter is not None
        settled = await self._publisher.send(
            Outgoing(
                key=delivery.tag,
                exchange=exchange,
                routing_key=routing_key,
                body=delivery.body,
                # Returns are matched by message id, so a message without one is given one.
                message_id=_text(delivery.message_id) or outcome.message_id or str(uuid4()),
                type=_text(delivery.type),
                content_type=_text(delivery.content_type) or CLOUDEVENTS_JSON,
                headers=letter.headers(delivery.headers),
            ),
            timeout_seconds=self._letter_seconds,
        )
        if settled.outcome is Published.CONFIRMED:
            LETTER_ACK.hit()
        return settled.outcome, settled.detail


def _text(value: object) -> str:
    """A property of the message, which pika gives as bytes where it is no UTF-8; "" then."""
    return value if isinstance(value, str) else ""

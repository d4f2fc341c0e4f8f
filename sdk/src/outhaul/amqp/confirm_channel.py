"""One channel in confirm mode with the window of what it has not confirmed yet.

When it ends, everything pending is unknown, with one exception: a message that was **alone** in flight when the
broker closed the channel is the cause of that. A new channel is a new object.

A channel that was nacked is not used again once nothing is in flight on it. Where a quorum queue elects its leader
while a channel publishes to it for the first time, RabbitMQ 3.10 nacks on that channel for ever, and takes messages on
any other at once.
"""

from __future__ import annotations

import asyncio
import math
import struct
import time
from collections.abc import Callable, Hashable
from collections.abc import Set as AbstractSet
from typing import Any

from pika import exceptions, spec

from outhaul.amqp.broker import describe, open_channel
from outhaul.amqp.outgoing import Outcome, Outgoing, Settled
from outhaul.amqp.publish_frames import PublishFrames
from outhaul.amqp.window import Window
from outhaul.errors import BrokerUnreachable
from outhaul.failpoints import PUBLISH_CONFIRM

ROUTE_ERRORS = frozenset({403, 404})
# Frame, syntax, command and field errors: the broker could not read what it was sent, and closes the connection.
MALFORMED_ERRORS = frozenset({501, 502, 503, 505})


class ConfirmChannel:
    """Publishes and accounts. All callbacks run on the connection's loop and must not raise.

    ``on_confirmed(keys)`` and ``on_settled(outcomes)`` are called in batches, as the broker answers;
    ``on_ended(answered, why)`` once, just before what is pending settles for the last time: ``answered`` tells whether
    the broker ever settled anything on this channel, so that a caller can tell a bad message from a bad connection;
    ``why`` is "" for a channel that is only to be replaced.
    """

    __slots__ = (
        "_answered",
        "_answered_at",
        "_channel",
        "_emit",
        "_ended",
        "_frames",
        "_nacked",
        "_on_confirmed",
        "_on_ended",
        "_on_latency",
        "_on_settled",
        "window",
    )

    def __init__(
        self,
        channel: Any,
        window: Window[Outgoing],
        *,
        on_confirmed: Callable[[list[Hashable]], None],
        on_settled: Callable[[list[Settled]], None],
        on_ended: Callable[[bool, str], None],
        on_latency: Callable[[float], None],
    ) -> None:
        self.window = window
        self._channel = channel
        self._frames = PublishFrames(channel.channel_number, channel.connection.params.frame_max)
        self._emit = channel.connection.emit
        self._on_confirmed = on_confirmed
        self._on_settled = on_settled
        self._on_ended = on_ended
        self._on_latency = on_latency
        self._answered = False
        self._nacked = False
        self._answered_at = -math.inf
        self._ended = False

    @classmethod
    async def open(
        cls,
        connection: Any,
        window: Window[Outgoing],
        *,
        timeout_seconds: float,
        on_confirmed: Callable[[list[Hashable]], None],
        on_settled: Callable[[list[Settled]], None],
        on_ended: Callable[[bool, str], None],
        on_latency: Callable[[float], None],
    ) -> ConfirmChannel:
        """A channel in confirm mode on that connection. Raises BrokerUnreachable."""
        channel = await open_channel(connection, timeout_seconds=timeout_seconds)
        self = cls(
            channel,
            window,
            on_confirmed=on_confirmed,
            on_settled=on_settled,
            on_ended=on_ended,
            on_latency=on_latency,
        )
        selected: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_select_ok(_: object) -> None:
            if not selected.done():
                selected.set_result(None)

        def on_close(_: object, error: Exception) -> None:
            if not selected.done():
                selected.set_exception(error)
            self.end(error)

        channel.add_on_return_callback(self._returned)
        channel.add_on_close_callback(on_close)
        address = f"{connection.params.host}:{connection.params.port}"
        try:
            channel.confirm_delivery(self._answer, callback=on_select_ok)
            async with asyncio.timeout(timeout_seconds):
                await selected
        except (exceptions.AMQPError, TimeoutError) as error:
            raise BrokerUnreachable(address, f"no confirm mode: {describe(error)}") from error
        return self

    @property
    def answered(self) -> bool:
        """Whether the broker has settled anything here: the path to it and back works."""
        return self._answered

    def publish(self, outgoing: Outgoing) -> Settled | None:
        """Hand one message to the broker; None when it is on its way, else why it could not be."""
        if not self._channel.is_open:
            return Settled(outgoing.key, Outcome.UNKNOWN, "not published: the channel is closed")
        try:
            encoded = self._frames.encode(outgoing)
        except (exceptions.AMQPError, ValueError, TypeError, AttributeError, OverflowError, struct.error) as error:
            return Settled(outgoing.key, Outcome.REFUSED, f"cannot be encoded for AMQP: {error!r}"[:500])
        self._emit(encoded)
        self.window.add(outgoing, outgoing.message_id, len(outgoing.body), time.monotonic())
        return None

    def give_up(self, error: BaseException, confirm_timeout_seconds: float) -> None:
        """A confirm is overdue: end. Where the broker answered for others meanwhile, the fault is the route's."""
        overdue = self.window.published_before(time.monotonic() - confirm_timeout_seconds)
        alive = self._answered_at > time.monotonic() - confirm_timeout_seconds
        self.end(error, stuck={id(each) for each in overdue} if alive else frozenset())

    def end(self, error: BaseException, *, stuck: AbstractSet[int] = frozenset()) -> None:
        """The channel is no more: settle what is pending. Only the first call counts.

        ``stuck`` holds the ids of those that are UNCONFIRMED rather than unknown.
        """
        if self._ended:
            return
        self._ended = True
        pending = self.window.close()
        why = describe(error)
        blame = _blame(error)
        found = len(pending) == 1 and blame is not None
        self._answered = self._answered or found
        # First the end: whoever is told of the outcomes may want to publish at once, and not here.
        self._on_ended(self._answered, why)
        if len(pending) == 1 and blame is not None:
            self._on_settled([Settled(pending[0].key, blame, why)])
        elif pending:
            detail, suspect = f"no confirm: {why}", blame is not None
            self._on_settled(
                [
                    Settled(each.key, Outcome.UNCONFIRMED, f"{why}, though the broker answers for others")
                    if id(each) in stuck
                    else Settled(each.key, Outcome.UNKNOWN, detail, suspect)
                    for each in pending
                ]
            )

    def _answer(self, frame: Any) -> None:
        PUBLISH_CONFIRM.hit()
        if self._ended:
            return
        method = frame.method
        window = self.window
        self._answered = True
        self._answered_at = time.monotonic()
        if isinstance(method, spec.Basic.Ack):
            self._on_latency(window.age_of(method.delivery_tag, self._answered_at))
            confirmed, unroutable = window.ack(method.delivery_tag, multiple=method.multiple)
            self._retire_if_nacked()
            if confirmed:
                self._on_confirmed([each.key for each in confirmed])
            if unroutable:
                self._on_settled([Settled(each.key, Outcome.UNROUTABLE, why) for each, why in unroutable])
            return
        nacked = window.nack(method.delivery_tag, multiple=method.multiple)
        if nacked:
            self._nacked = True
            self._retire_if_nacked()
            why = "nacked by the broker: a queue is full or has no majority"
            self._on_settled([Settled(each.key, Outcome.NACKED, why) for each in nacked])

    def _retire_if_nacked(self) -> None:
        """End it with nothing pending. Before anybody is told of outcomes: whoever is may publish at once."""
        if self._nacked and not self.window:
            self._ended = True
            self.window.close()
            self._on_ended(True, "")
            if self._channel.is_open:
                self._channel.close()

    def _returned(self, _: object, method: Any, properties: Any, __: object) -> None:
        if not self._ended and properties.message_id is not None:
            where = f"exchange {method.exchange!r}, routing key {method.routing_key!r}"
            self.window.returned(properties.message_id, f"{method.reply_code} {method.reply_text}: {where}")


def _blame(error: BaseException) -> Outcome | None:
    """What the end of the channel says of a message alone in flight; None when it says nothing of messages."""
    if isinstance(error, exceptions.ChannelClosedByBroker):
        return Outcome.NO_EXCHANGE if error.reply_code in ROUTE_ERRORS else Outcome.REFUSED
    if isinstance(error, exceptions.ConnectionClosedByBroker) and error.reply_code in MALFORMED_ERRORS:
        return Outcome.REFUSED
    return None

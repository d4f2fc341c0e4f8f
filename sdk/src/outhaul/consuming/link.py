"""The broker's side of a consumer: one connection that only consumes, and a second one for retries and dead letters.

Everything here runs on the link's own event loop, in a thread of its own, so that no handler can starve the heartbeats.
The one way in is `call_soon_threadsafe`: once a batch, not once a message. A new channel is a new `Subscription`, with
its own tags; what belongs to an older one is dropped, for the broker delivers it again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import uuid4

from pika import exceptions

from outhaul.alerts import Alerter
from outhaul.amqp.broker import abort_connection, close_connection, describe, open_channel, open_connection
from outhaul.amqp.every_delivery import take_every_delivery
from outhaul.backoff import Backoff
from outhaul.consuming.delivery import Delivery, Outcome
from outhaul.consuming.mailbox import Mailbox
from outhaul.consuming.postman import Postman
from outhaul.consuming.ramp import Ramp
from outhaul.consuming.subscription import Subscription
from outhaul.errors import BrokerUnreachable, ConfigurationError
from outhaul.metrics import Metrics
from outhaul.publisher import Publisher
from outhaul.settings import BrokerSettings

_log = logging.getLogger(__name__)

RPC_SECONDS = 15.0
CLOSE_SECONDS = 5.0
BEAT_SECONDS = 0.5


class Link:
    """Connects, subscribes, settles; begins anew whenever any of these ends. Starts paused, and without the broker.

    ``active`` (subscribed), ``trouble`` (why not, in words), ``prefetch`` and ``beat`` may be read from any thread.
    ``on_ended(message_ids)`` is called once letters are with the broker's dead letters.
    """

    def __init__(
        self,
        broker: BrokerSettings,
        *,
        queue: str,
        consumer: str,
        ramp: Ramp,
        mailbox: Mailbox,
        metrics: Metrics,
        alerter: Alerter,
    ) -> None:
        self._broker = broker
        self._queue = queue
        self._consumer = consumer
        self._ramp = ramp
        self._mailbox = mailbox
        self.on_ended: Callable[[Iterable[str]], None] = lambda _: None
        self._metrics = metrics
        self._alerter = alerter
        self._loop: asyncio.AbstractEventLoop | None = None
        self._postman: Postman | None = None
        self._subscription: Subscription | None = None
        self._numbers = itertools.count(1)
        self._wanted = False
        self._stopping = False
        self._changed = asyncio.Event()
        self._fresh: list[Delivery] = []
        self._letters: set[asyncio.Task[None]] = set()
        self._backoff = Backoff(base_seconds=0.1, cap_seconds=5.0)
        self.active = False
        self.trouble = "starting"
        self.connections_lost = 0
        self.beat = time.monotonic()

    @property
    def prefetch(self) -> int:
        """How many unacked messages the broker may hand over now."""
        return self._ramp.prefetch

    def settle(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """As Port."""
        self._post(self._settle, outcomes, seconds)

    def pause(self, why: str) -> None:
        """As Port."""
        self._post(self._want, False, why)

    def resume(self) -> None:
        """As Port."""
        self._post(self._want, True, "")

    async def run(self) -> None:
        """Until ``stop``."""
        self._loop = asyncio.get_running_loop()
        beating = self._loop.create_task(self._keep_beating())
        # Said from the start on, so that one who never gets a connection is seen as well.
        self._metrics.connected.set(0, role="consumer")
        self._metrics.consumer_active.set(0)
        publisher = Publisher(self._broker, name=f"outhaul {self._consumer}: retries and dead letters")
        self._postman = Postman(
            publisher,
            queue=self._queue,
            consumer=self._consumer,
            on_ended=self.on_ended,
            metrics=self._metrics,
            alerter=self._alerter,
        )
        try:
            async with publisher:
                while not self._stopping:
                    await self._connect()
                    await self._wait(self._backoff.next_seconds(), lambda: self._stopping)
        finally:
            beating.cancel()
            self._set_active(False)

    async def quiesce(self, seconds: float) -> None:
        """Take nothing more; returns when nothing more can come, or after so long."""
        self._want(False, "closing")
        await self._wait(seconds, lambda: not self.active)

    async def stop(self, *, letters_seconds: float) -> None:
        """Let letters under way be confirmed, then end: acks are flushed by the orderly close."""
        if self._letters:
            await asyncio.wait(set(self._letters), timeout=letters_seconds)
        for task in self._letters:
            task.cancel()
        self._stopping = True
        self._changed.set()

    def _post(self, call: Callable[..., None], *arguments: Any) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            try:
                loop.call_soon_threadsafe(call, *arguments)
            except RuntimeError:
                # Closed between the two lines. Unsettled deliveries come again, and the inbox knows them.
                _log.info("settled after the link was closed; the broker will deliver again")

    def _want(self, wanted: bool, why: str) -> None:
        self._wanted = wanted
        if not wanted:
            self.trouble = why
        self._changed.set()

    async def _keep_beating(self) -> None:
        while True:
            self.beat = time.monotonic()
            await asyncio.sleep(BEAT_SECONDS)

    async def _wait(self, seconds: float, done: Callable[[], bool]) -> None:
        """Until ``done``, looking at every change, or for so long."""
        try:
            async with asyncio.timeout(seconds):
                while not done():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return

    async def _connect(self) -> None:
        try:
            connection = await open_connection(
                self._broker, name=f"outhaul {self._consumer}", on_closed=self._connection_closed
            )
        except (BrokerUnreachable, ConfigurationError) as error:
            # A password file that is being rotated is unreadable for a moment: an outage, like the broker's own.
            self._report(str(error))
            return
        self._metrics.connected.set(1, role="consumer")
        try:
            while connection.is_open and not self._stopping:
                try:
                    await self._serve(connection)
                except BrokerUnreachable as error:
                    self._report(error.why)
                except exceptions.AMQPError as error:
                    self._report(describe(error))
                await self._wait(self._backoff.next_seconds(), lambda: self._stopping or not connection.is_open)
        finally:
            self._metrics.connected.set(0, role="consumer")
            await close_connection(connection, timeout_seconds=CLOSE_SECONDS)

    async def _serve(self, connection: Any) -> None:
        """One channel, until it or the connection ends."""
        channel = await open_channel(connection, timeout_seconds=RPC_SECONDS)
        subscription = Subscription(channel, next(self._numbers))
        take_every_delivery(
            channel, lambda method, properties, body: self._deliver(subscription, method, properties, body)
        )
        channel.add_on_close_callback(self._channel_closed)
        channel.add_on_cancel_callback(lambda _: self._cancelled_by_broker(subscription))
        self._ramp.restart()
        self._subscription = subscription
        try:
            while self._goes_on(subscription):
                await self._adjust(subscription)
                self._changed.clear()
                if self._goes_on(subscription) and not self._needs_adjusting(subscription):
                    await self._changed.wait()
        finally:
            self._subscription = None
            self._set_active(False)
            self._fresh.clear()
            self._mailbox.drop()

    def _goes_on(self, subscription: Subscription) -> bool:
        return subscription.is_open and not self._stopping

    def _needs_adjusting(self, subscription: Subscription) -> bool:
        subscribed = subscription.consumer_tag is not None
        return subscribed != self._wanted or (
            subscribed and self._ramp.should_rise(subscription.settlement.outstanding)
        )

    async def _adjust(self, subscription: Subscription) -> None:
        """Bring the subscription to what is wanted: none, one, or one with a larger prefetch."""
        channel = subscription.channel
        if subscription.consumer_tag is not None:
            rise = self._wanted and self._ramp.should_rise(subscription.settlement.outstanding)
            if self._wanted and not rise:
                return
            tag, subscription.consumer_tag = subscription.consumer_tag, None
            await self._rpc(channel, lambda done: channel.basic_cancel(tag, callback=done))
            if not self._wanted:
                self._set_active(False)
                return
            self._ramp.rise()
        if self._wanted:
            await self._rpc(channel, lambda done: channel.basic_qos(prefetch_count=self._ramp.prefetch, callback=done))
            tag = f"outhaul.{self._consumer}.{os.getpid()}.{uuid4().hex[:8]}"
            await self._rpc(
                channel,
                lambda done: channel.basic_consume(
                    self._queue, _all_deliveries_pass_elsewhere, consumer_tag=tag, callback=done
                ),
            )
            subscription.consumer_tag = tag
            self._metrics.consumer_prefetch.set(self._ramp.prefetch)
            self._set_active(True)

    async def _rpc(self, channel: Any, call: Callable[[Callable[[object], None]], object]) -> None:
        """One request to the broker and its answer; BrokerUnreachable when the channel ends instead."""
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_answer(_: object) -> None:
            if not answered.done():
                answered.set_result(None)

        def on_close(_: object, error: BaseException) -> None:
            if not answered.done():
                answered.set_exception(BrokerUnreachable(self._broker.address, self._explain(error)))

        channel.add_on_close_callback(on_close)
        call(on_answer)
        try:
            async with asyncio.timeout(RPC_SECONDS):
                await answered
        except TimeoutError as error:
            why = f"no answer within {RPC_SECONDS:g} s"
            # Or the channel would stay, with what came over it, and be subscribed when the answer comes after all:
            # messages that nobody settles. A close of the channel alone would wait for that same answer.
            abort_connection(channel.connection, why)
            raise BrokerUnreachable(self._broker.address, why) from error
        finally:
            channel.callbacks.remove(str(channel.channel_number), "_on_channel_close", on_close)

    def _explain(self, error: BaseException) -> str:
        text = describe(error)
        if isinstance(error, exceptions.ChannelClosed) and error.reply_code == 404:
            return f"{text}; declare it: `outhaul topology apply`"
        return text

    def _deliver(self, subscription: Subscription, method: Any, properties: Any, body: bytes) -> None:
        if subscription is not self._subscription:
            return  # over a channel that is being closed: the broker delivers it again
        subscription.settlement.delivered(method.delivery_tag)
        self._fresh.append(
            Delivery(
                body,
                method.exchange,
                method.routing_key,
                method.redelivered,
                properties.headers or {},
                properties.message_id,
                properties.type,
                properties.content_type,
                method.delivery_tag,
                subscription.number,
            )
        )
        if len(self._fresh) == 1:
            asyncio.get_running_loop().call_soon(self._hand_over)

    def _hand_over(self) -> None:
        fresh, self._fresh = self._fresh, []
        if fresh:
            self._mailbox.put(fresh)
            subscription = self._subscription
            if subscription is not None and self._ramp.should_rise(subscription.settlement.outstanding):
                self._changed.set()

    def _settle(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        subscription = self._subscription
        redelivered = sum(outcome.delivery.redelivered for outcome in outcomes)
        self._ramp.settled(len(outcomes), redelivered=redelivered, seconds=seconds)
        if subscription is None:
            return
        mine = [outcome for outcome in outcomes if outcome.delivery.channel == subscription.number]
        subscription.ack([outcome.delivery.tag for outcome in mine if outcome.letter is None])
        for outcome in mine:
            if outcome.letter is not None and self._postman is not None:
                task = asyncio.get_running_loop().create_task(self._postman.send(subscription, outcome))
                self._letters.add(task)
                task.add_done_callback(self._letters.discard)
        if self._ramp.should_rise(subscription.settlement.outstanding):
            self._changed.set()

    def _cancelled_by_broker(self, subscription: Subscription) -> None:
        """Its queue was deleted or moved, or a message was held for too long: what was unacked is no longer ours."""
        subscription.consumer_tag = None
        self._set_active(False)
        self._report("the broker cancelled the subscription")
        if subscription.is_open:
            subscription.channel.close(200, "cancelled by the broker; subscribing anew")

    def _channel_closed(self, _: object, error: BaseException) -> None:
        self._set_active(False)
        if not isinstance(error, exceptions.ChannelClosedByClient):
            self._report(self._explain(error))

    def _connection_closed(self, error: Exception) -> None:
        self._set_active(False)
        if not self._stopping:
            self.connections_lost += 1
            self._metrics.connections_lost.inc(role="consumer")
            self._report(describe(error))

    def _set_active(self, active: bool) -> None:
        if active and not self.active:
            self._backoff.reset()
            self.trouble = ""
            _log.info("consuming %s as %s", self._queue, self._consumer)
        self.active = active
        self._metrics.consumer_active.set(int(active))
        self._changed.set()

    def _report(self, why: str) -> None:
        """Say once why nothing is consumed; the same reason again and again would only fill the log."""
        if why != self.trouble:
            _log.warning("not consuming %s: %s", self._queue, why)
        self.trouble = why


def _all_deliveries_pass_elsewhere(*_: object) -> None:
    """What pika wants for each consumer tag; see `take_every_delivery`."""

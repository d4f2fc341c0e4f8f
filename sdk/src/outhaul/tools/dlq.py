"""A dead-letter queue over AMQP: read its letters without losing one, and move those that are meant.

Reading takes letters without acknowledging them and gives them back at the end. A dead-letter queue has no delivery
limit, so being read and given back never costs a letter, however often it happens and however this process ends.

A letter is acknowledged only after the broker has confirmed its redriven message, or its discard is on record. Killed
in between, the message is there twice, which the inbox absorbs; it is never gone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

import pika
from pika import exceptions

from outhaul.amqp.broker import abort_connection, describe, unreachable
from outhaul.amqp.forgiving import ForgivingSelectConnection
from outhaul.errors import BrokerUnreachable, TopologyError
from outhaul.settings import BrokerSettings
from outhaul.tools.letters import DeadLetter, from_delivery

ANSWER_SECONDS: Final = 30.0
PERSISTENT: Final = 2
_ACCESS_REFUSED, _NOT_FOUND = 403, 404


class NotTaken(Exception):
    """The broker did not take a message: no queue for it, or a queue that is full. The letter stays where it is."""


class DeadLetterQueue:
    """One dead-letter queue, opened for reading and moving. A context manager; not thread-safe.

    Every answer of the broker is waited for at most ``answer_seconds``. Raises BrokerUnreachable, and TopologyError
    when the queue does not exist.
    """

    def __init__(self, broker: BrokerSettings, name: str, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self.name = name
        self._broker = broker
        self._answer_seconds = answer_seconds
        self._connection: Any = None
        self._channel: Any = None

    def __enter__(self) -> Self:
        """Connect and make sure that the queue exists."""
        with self._trouble():
            parameters = self._broker.parameters(connection_name="outhaul dlq")
            self._connection = pika.BlockingConnection(parameters, _impl_class=ForgivingSelectConnection)
        try:
            with self._trouble(), self._deadline("the channel"):
                self._channel = self._connection.channel()
                self._channel.confirm_delivery()
            self.depth()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back what was not settled, and close."""
        self._close()

    def depth(self) -> int:
        """How many letters are ready; those that another reader holds are not counted."""
        with self._trouble(), self._deadline("the queue's depth"):
            try:
                answer = self._channel.queue_declare(self.name, passive=True)
            except exceptions.ChannelClosedByBroker as error:
                if error.reply_code != _NOT_FOUND:
                    raise
                raise _missing_queue(self.name, error) from error
        count: int = answer.method.message_count
        return count

    def require_queue(self, name: str) -> None:
        """Raise TopologyError if that queue is known not to exist. On a channel of its own: a 404 closes it.

        RabbitMQ 4.x tells it only to those with a right on the queue, which moving letters to it does not take; a
        message that then finds no queue is returned.
        """
        with self._trouble(), self._deadline(f"queue {name}"):
            channel = self._connection.channel()
            try:
                channel.queue_declare(name, passive=True)
            except exceptions.ChannelClosedByBroker as error:
                if error.reply_code == _NOT_FOUND:
                    raise _missing_queue(name, error) from error
                if error.reply_code != _ACCESS_REFUSED:
                    raise
                return
            channel.close()

    def letters(self) -> Iterator[DeadLetter]:
        """The letters in order until none is left; each stays unacknowledged until it is settled or given back."""
        while True:
            with self._trouble(), self._deadline("the next letter"):
                method, properties, body = self._channel.basic_get(self.name, auto_ack=False)
            if method is None:
                return
            yield from_delivery(method, properties, body)

    def publish(self, letter: DeadLetter, *, exchange: str, routing_key: str, headers: dict[str, Any]) -> None:
        """Publish the letter's message and wait for the confirm.

        Raises NotTaken when it was returned as unroutable, refused, or the exchange does not exist; whether a confirm
        that did not come in time stands for a message or not is unknown, and then BrokerUnreachable is raised.
        """
        old = letter.properties
        # Not carried over: expiration (it would expire again) and user_id (it must be that of this connection).
        properties = pika.BasicProperties(
            content_type=old.content_type,
            content_encoding=old.content_encoding,
            headers=headers,
            delivery_mode=PERSISTENT,
            priority=old.priority,
            correlation_id=old.correlation_id,
            reply_to=old.reply_to,
            message_id=old.message_id,
            timestamp=old.timestamp,
            type=old.type,
            app_id=old.app_id,
        )
        with self._trouble(), self._deadline("a confirm"):
            try:
                self._channel.basic_publish(exchange, routing_key, letter.body, properties, mandatory=True)
            except exceptions.UnroutableError as error:
                raise NotTaken(f"no queue is bound to {exchange!r} by {routing_key!r}") from error
            except exceptions.NackError as error:
                raise NotTaken("the broker refused the message: its queue is full or unavailable") from error
            except exceptions.ChannelClosedByBroker as error:
                if error.reply_code != _NOT_FOUND:
                    raise
                raise TopologyError(
                    f"publishing to exchange {exchange!r}: {describe(error)}; run `outhaul topology apply`"
                ) from error

    def settle(self, letter: DeadLetter) -> None:
        """Take the letter out of the queue."""
        with self._trouble():
            self._channel.basic_ack(letter.tag)

    def give_back(self) -> None:
        """Put every letter that was read and not settled back to its place."""
        with self._trouble(), self._deadline("giving letters back"):
            # Not by closing the channel: 4.3 counts that as a failed delivery, and this it does not.
            self._channel.basic_nack(0, multiple=True, requeue=True)
            # A nack has no answer of its own; the answer to what follows it proves that it was read.
            self._channel.basic_qos(prefetch_count=0)

    def wait(self, seconds: float) -> None:
        """Let time pass while heartbeats go on."""
        deadline = time.monotonic() + seconds
        with self._trouble():
            while (left := deadline - time.monotonic()) > 0:
                self._connection.process_data_events(time_limit=left)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None or not connection.is_open:
            return
        try:
            with self._trouble(), self._deadline("closing", connection):
                if self._channel is not None and self._channel.is_open:
                    self._channel.basic_nack(0, multiple=True, requeue=True)
                connection.close()
        except BrokerUnreachable:
            # What was not acknowledged goes back by itself once the broker sees that we are gone.
            return

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except (exceptions.AMQPError, OSError) as error:  # an unknown host name comes as it is
            raise unreachable(self._broker.address, error) from error

    @contextmanager
    def _deadline(self, what: str, connection: Any = None) -> Iterator[None]:
        """End the connection when an answer takes too long: pika's blocking calls themselves wait without end."""
        # The public call_later does not run while another call waits for its answer.
        adapter = (connection or self._connection)._impl  # noqa: SLF001 - see above

        def give_up() -> None:
            abort_connection(adapter, f"no answer about {what} within {self._answer_seconds:g} s")

        timer = adapter.ioloop.call_later(self._answer_seconds, give_up)
        try:
            yield
        finally:
            adapter.ioloop.remove_timeout(timer)


def _missing_queue(name: str, error: Exception) -> TopologyError:
    return TopologyError(f"queue {name!r}: {describe(error)}; check --queue, or run `outhaul topology apply`")

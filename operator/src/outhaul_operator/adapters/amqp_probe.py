"""What AMQP alone tells of a broker: that it lets us in, its version, and whether exchanges and queues are there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from pika import exceptions

from outhaul.amqp.broker import close_connection, open_channel, open_connection, unreachable
from outhaul.broker_admin.depths import Depth
from outhaul.settings import BrokerSettings

_NAME: Final = "outhaul operator"
_CLOSE_SECONDS: Final = 1.0
HIDDEN: Final = "hidden"


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpView:
    """``depths`` are of the queues asked for that exist; only messages that nobody holds are counted.

    ``hidden`` are the queues that this user is told nothing of: RabbitMQ 4.x wants some right on them.
    """

    version: str
    missing_exchanges: frozenset[str] = frozenset()
    depths: dict[str, Depth] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()


async def probe(
    settings: BrokerSettings, *, exchanges: Iterable[str] = (), queues: Iterable[str] = (), timeout_seconds: float
) -> AmqpView:
    """Log in and ask. The caller bounds the whole of it. Raises BrokerUnreachable."""
    bounded = replace(settings, connect_timeout_seconds=timeout_seconds)
    connection = await open_connection(bounded, name=_NAME, on_closed=lambda _: None)
    try:
        version = str((connection.server_properties or {}).get("version", ""))
        asking = _Asking(connection, settings.address, timeout_seconds)
        missing = [name for name in exchanges if await asking.exchange(name) is None]
        found = {name: await asking.queue(name) for name in queues}
    finally:
        await close_connection(connection, timeout_seconds=_CLOSE_SECONDS)
    return AmqpView(
        version=version,
        missing_exchanges=frozenset(missing),
        depths={name: depth for name, depth in found.items() if isinstance(depth, Depth)},
        hidden=frozenset(name for name, depth in found.items() if depth == HIDDEN),
    )


class _Asking:
    """Passive declarations; one of what is not there, or not to be seen, closes its channel."""

    def __init__(self, connection: Any, address: str, timeout_seconds: float) -> None:
        self._connection = connection
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._channel: Any = None

    async def exchange(self, name: str) -> Any:
        return await self._ask(lambda channel, ok: channel.exchange_declare(name, passive=True, callback=ok))

    async def queue(self, name: str) -> Depth | Literal["hidden"] | None:
        answer = await self._ask(lambda channel, ok: channel.queue_declare(name, passive=True, callback=ok))
        if answer is None:
            return None
        if answer is HIDDEN:
            return HIDDEN
        told = answer.method
        return Depth(
            name=name, ready=told.message_count, unacked=0, awaiting_dead_lettering=0, consumers=told.consumer_count
        )

    async def _ask(self, declare: Callable[[Any, Callable[[Any], None]], Any]) -> Any:
        """The broker's answer; None where there is no such thing, HIDDEN where this user is not told."""
        if self._channel is None or not self._channel.is_open:
            self._channel = await open_channel(self._connection, timeout_seconds=self._timeout_seconds)
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def on_close(_: object, error: Exception) -> None:
            if not answered.done():
                answered.set_exception(error)

        def on_ok(frame: Any) -> None:
            if not answered.done():
                answered.set_result(frame)

        self._channel.add_on_close_callback(on_close)
        try:
            declare(self._channel, on_ok)
            async with asyncio.timeout(self._timeout_seconds):
                return await answered
        except exceptions.ChannelClosedByBroker as error:
            if error.reply_code == 404:
                return None
            if error.reply_code == 403:
                return HIDDEN
            raise unreachable(self._address, error) from error
        except (exceptions.AMQPError, TimeoutError) as error:
            raise unreachable(self._address, error) from error

"""Opening and closing connections to RabbitMQ from asyncio: the one place that knows pika's life cycle.

pika reports everything through callbacks, and **an exception in any of them closes the connection**. Here
each becomes an awaitable with a deadline, and each failure a BrokerUnreachable that says what to do about
it. The returned connections and channels are pika's own: whoever publishes or consumes drives them directly.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

from pika import exceptions

from outhaul.amqp.coalescing import CoalescingConnection
from outhaul.errors import BrokerUnreachable
from outhaul.settings import BrokerSettings

_log = logging.getLogger(__name__)

# What the connection needs beyond its socket: TLS, login, tune, open. One deadline for all of it.
HANDSHAKE_SECONDS = 10.0


def _ignore_blocked(blocked: bool, why: str) -> None:
    """The default: a connection that never publishes is never blocked."""


async def open_connection(
    settings: BrokerSettings,
    *,
    name: str,
    on_closed: Callable[[Exception], None],
    on_blocked: Callable[[bool, str], None] = _ignore_blocked,
) -> Any:
    """An open ``pika`` AsyncioConnection on the running loop, shown as ``name`` in the management UI.

    ``on_closed(why)`` is called once, when the open connection ends for any reason, our own close included.
    ``on_blocked(True, reason)`` when the broker stops reading from it (memory or disk alarm), ``(False, "")``
    when it reads again.

    Raises BrokerUnreachable with a remedy: refused credentials, missing virtual host, TLS, no answer in time.
    """
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[None] = loop.create_future()
    seconds = settings.connect_timeout_seconds + HANDSHAKE_SECONDS

    def on_open(_: object) -> None:
        if not opened.done():
            opened.set_result(None)

    def on_open_error(_: object, error: BaseException) -> None:
        if not opened.done():
            opened.set_exception(error if isinstance(error, Exception) else ConnectionError(repr(error)))

    def on_close(_: object, error: BaseException) -> None:
        on_closed(error if isinstance(error, Exception) else ConnectionError(repr(error)))

    connection = CoalescingConnection(
        settings.parameters(connection_name=name),
        on_open_callback=on_open,
        on_open_error_callback=on_open_error,
        on_close_callback=on_close,
        custom_ioloop=loop,
    )
    connection.add_on_connection_blocked_callback(lambda _, frame: on_blocked(True, str(frame.method.reason)))
    connection.add_on_connection_unblocked_callback(lambda _, __: on_blocked(False, ""))
    try:
        async with asyncio.timeout(seconds):
            await opened
    except TimeoutError as error:
        _abandon(connection)
        raise BrokerUnreachable(
            settings.address,
            f"no connection within {seconds:g} s",
            "look for a firewall that drops packets, or a broker that is starting",
        ) from error
    except asyncio.CancelledError:
        if connection.is_open:
            abort_connection(connection, "opening was cancelled")
        else:
            _abandon(connection)
        raise
    except Exception as error:  # pika hands over any exception of its workflow; it is kept as the cause
        raise unreachable(settings.address, error) from error
    return connection


async def open_channel(connection: Any, *, timeout_seconds: float) -> Any:
    """A new open channel. Raises BrokerUnreachable when the connection ends or nothing comes in time."""
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[None] = loop.create_future()
    address = f"{connection.params.host}:{connection.params.port}"

    def on_open(_: object) -> None:
        if not opened.done():
            opened.set_result(None)

    def on_close(_: object, error: Exception) -> None:
        if not opened.done():
            opened.set_exception(error)

    try:
        channel = connection.channel(on_open_callback=on_open)
        channel.add_on_close_callback(on_close)
        async with asyncio.timeout(timeout_seconds):
            await opened
    except TimeoutError as error:
        raise BrokerUnreachable(address, f"no channel within {timeout_seconds:g} s") from error
    except exceptions.AMQPError as error:
        raise BrokerUnreachable(address, f"no channel: {describe(error)}") from error
    return channel


async def close_connection(connection: Any, *, timeout_seconds: float) -> None:
    """Close in good order, and abruptly when the broker does not answer in time. Never raises."""
    if connection.is_closed:
        return
    closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_close(_: object, __: object) -> None:
        if not closed.done():
            closed.set_result(None)

    connection.add_on_close_callback(on_close)
    if not connection.is_closing:
        connection.close()
    try:
        async with asyncio.timeout(timeout_seconds):
            await closed
    except TimeoutError:
        abort_connection(connection, f"no answer to close within {timeout_seconds:g} s")
        # The transport reports its end in the next turns of the loop, without the broker.
        try:
            async with asyncio.timeout(1.0):
                await closed
        except TimeoutError:
            _log.warning("connection did not end after it was aborted")


def abort_connection(connection: Any, why: str) -> None:
    """End the connection without asking the broker: for a link that is half-open.

    ``close()`` would wait until the heartbeat gives up; pika has no public way.
    """
    if not connection.is_closed:
        connection._terminate_stream(exceptions.StreamLostError(why))  # noqa: SLF001 - no public abort in pika


def unreachable(address: str, error: BaseException) -> BrokerUnreachable:
    """The failure to connect as an error that says what to do."""
    for cause in _causes(error):
        if (found := _refusal(address, error, cause) or _no_link(address, cause)) is not None:
            return found
    return BrokerUnreachable(address, describe(error))


def _refusal(address: str, error: BaseException, cause: BaseException) -> BrokerUnreachable | None:
    """The broker answers, and says no."""
    login = "check user and password of the AMQP URL"
    if isinstance(cause, exceptions.ProbableAuthenticationError | exceptions.AuthenticationError):
        return BrokerUnreachable(address, "login refused", login, refused=True)
    if isinstance(cause, exceptions.ConnectionClosedByBroker) and cause.reply_code == 403:
        return BrokerUnreachable(address, cause.reply_text, login, refused=True)
    if isinstance(cause, exceptions.ProbableAccessDeniedError) or (
        isinstance(cause, exceptions.ConnectionClosedByBroker) and cause.reply_code == 530
    ):
        remedy = "create the virtual host, or grant the user permissions in it"
        return BrokerUnreachable(address, describe(error), remedy, refused=True)
    if isinstance(cause, exceptions.ChannelClosedByBroker) and cause.reply_code == 403:
        return BrokerUnreachable(address, describe(error), "grant the user this permission", refused=True)
    return None


def _no_link(address: str, cause: BaseException) -> BrokerUnreachable | None:
    """Nobody answers there, or somebody else."""
    if isinstance(cause, exceptions.IncompatibleProtocolError):
        return BrokerUnreachable(address, "does not speak AMQP 0-9-1 here", "check the port (5672, or 5671 for amqps)")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return BrokerUnreachable(
            address, f"certificate refused: {cause.verify_message}", "check the CA file and the host name"
        )
    if isinstance(cause, ssl.SSLError):
        return BrokerUnreachable(address, f"TLS failed: {cause.reason}", "check that the port speaks TLS")
    if isinstance(cause, socket.gaierror):
        return BrokerUnreachable(address, "the host name is unknown", "check the host of the AMQP URL")
    if isinstance(cause, ConnectionRefusedError):
        return BrokerUnreachable(address, "connection refused", "start RabbitMQ, or check host and port")
    return None


def describe(error: BaseException) -> str:
    """One line for people: the broker's reply code and text where there is one."""
    if isinstance(error, exceptions.ConnectionClosed | exceptions.ChannelClosed):
        return f"{error.reply_code} {error.reply_text}"
    innermost = list(_causes(error))[-1]
    if isinstance(innermost, exceptions.ConnectionClosed | exceptions.ChannelClosed):
        return f"{innermost.reply_code} {innermost.reply_text}"
    return str(innermost) or type(innermost).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what pika wrapped in it: its workflow keeps causes in attributes, not in __cause__."""
    seen: set[int] = set()
    queue: list[BaseException] = [error]
    while queue:
        current = queue.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner: list[object] = [current.__cause__, getattr(current, "exception", None), *current.args]
        attempts = getattr(current, "exceptions", None)
        if isinstance(attempts, list | tuple):
            inner.extend(attempts)
        queue.extend(item for item in inner if isinstance(item, BaseException))


def _abandon(connection: Any) -> None:
    """Give up a connection that is still opening."""
    if not (connection.is_closed or connection.is_closing):
        connection.close()

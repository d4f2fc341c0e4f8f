"""The network between a program and the broker, made to lose answers on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

# AMQP 0-9-1, class 60 (basic), method 80 (ack): what the broker's confirm begins with.
CONFIRM = bytes([0, 60, 0, 80])


class Link:
    """Passes bytes on in both directions. ``lose_next_confirm()`` swallows one and cuts the connection with it.

    The broker has the message then, and the publisher does not know: the worst moment to lose a connection.
    """

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost
        self._armed = False

    def lose_next_confirm(self) -> None:
        """The next confirm will not arrive; where one is to be lost already, that one serves for both."""
        self._armed = True

    async def carry(self, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it or it is cut."""
        try:
            from_broker, to_broker = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()
            return
        there = asyncio.create_task(self._pass_on(reader, to_broker, loses=False))
        back = asyncio.create_task(self._pass_on(from_broker, writer, loses=True))
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        for task in (there, back):
            task.cancel()
        for end in (writer, to_broker):
            end.close()

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, loses: bool) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if loses and self._armed and CONFIRM in data:
                    self._armed = False
                    self._on_lost()
                    return
                target.write(data)
                await target.drain()


@asynccontextmanager
async def broken_link(amqp_url: str, *, on_lost: Callable[[], None]) -> AsyncIterator[tuple[Link, str]]:
    """A link to that broker for the length of the block, and the URL that leads through it.

    ``on_lost`` is called for each confirm that was lost.
    """
    parts = urlsplit(amqp_url)
    link = Link(on_lost)
    server = await asyncio.start_server(
        lambda reader, writer: link.carry(parts.hostname or "127.0.0.1", parts.port or 5672, reader, writer),
        "127.0.0.1",
        0,
    )
    port = server.sockets[0].getsockname()[1]
    user = f"{parts.username}:{parts.password}@" if parts.username else ""
    async with server:
        yield link, urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{port}"))

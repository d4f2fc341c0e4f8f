"""Connections to users' databases: one deadline for all that is done on one, kept for the next look where that is safe.

Logging in costs ten times what a look asks (SCRAM alone 2 ms of CPU), so a connection is kept between looks, a few for
each server. A half-open one is cut at the socket: cancelling a statement would ask the same silent server again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

import psycopg
from psycopg.pq import TransactionStatus

from outhaul.errors import ConfigurationError
from outhaul.settings import DatabaseSettings
from outhaul_operator import troubles
from outhaul_operator.snapshot import Trouble

T = TypeVar("T")
Connection = psycopg.AsyncConnection[Any]

KEPT_A_SERVER: Final = 50
SHARE_OF_SERVER: Final = 10
"""At most every so-manieth connection that a server takes is kept: it has others to serve."""
IDLE_SECONDS: Final = 90.0
LIFE_SECONDS: Final = 300.0
"""A password changed on the server alone is noticed after this."""

# Files of this process, such as its API token, are not to be sent to a host that a Secret names, nor written.
FILES: Final = frozenset({"password_file", "passfile", "service", "servicefile", "sslkeylogfile"})
_SETTING: Final = "database URL"
_MOST_CONNECTIONS: Final = "SELECT current_setting('max_connections')::integer"


class Silent(Exception):
    """The deadline passed."""


@dataclass(slots=True)
class _Held:
    conn: Connection
    server: str
    opened_at: float
    share: int | None = None
    used_at: float = 0.0


def database_settings(url: str) -> DatabaseSettings | Trouble:
    """What a Secret holds, parsed; a Trouble that does not show it where it cannot be used."""
    try:
        settings = None if names_a_file(url) else DatabaseSettings.parse(url, setting=_SETTING)
    except ConfigurationError as error:
        return troubles.secret_invalid(error)
    if settings is None or FILES & settings.options.keys():
        return troubles.file_named(_SETTING)
    return settings


def names_a_file(url: str) -> bool:
    """Whether a parameter of the URL names a file that holds a password or takes one."""
    try:
        names = {name for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    except ValueError:
        return False  # the settings' own parser says why
    return bool(FILES & names)


class DatabaseLinks:
    """Lends connections, each for one piece of work within ``timeout_seconds``, logging in included."""

    def __init__(self, *, timeout_seconds: float, kept_a_server: int = KEPT_A_SERVER) -> None:
        self._timeout_seconds = timeout_seconds
        self._kept_a_server = kept_a_server
        self._kept: dict[str, list[_Held]] = {}
        self._swept_at = 0.0

    async def run(self, settings: DatabaseSettings, work: Callable[[Connection], Awaitable[T]]) -> T | Trouble:
        """Do the work on a connection in autocommit mode; a Trouble for whatever the database does to it."""
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        await self._sweep()
        try:
            key = settings.conninfo()
            held = await self._take(key)
            if held is not None:
                try:
                    return await self._do(key, held, work, deadline)
                except psycopg.OperationalError as error:
                    # It ended between two looks; a new one tells whether the server is well.
                    if error.sqlstate is not None and not error.sqlstate.startswith(("57P", "08")):
                        raise
            return await self._do(key, await self._open(settings, key, deadline), work, deadline)
        except (Silent, TimeoutError):
            return troubles.timed_out("database", settings.address, self._timeout_seconds)
        except (psycopg.Error, OSError) as error:
            return troubles.of_database(error, settings.address)

    async def close(self) -> None:
        """Close what is kept."""
        kept, self._kept = self._kept, {}
        for held in [each for several in kept.values() for each in several]:
            await held.conn.close()

    async def _open(self, settings: DatabaseSettings, key: str, deadline: float) -> _Held:
        async with asyncio.timeout_at(deadline):
            conn = await psycopg.AsyncConnection.connect(
                key,
                autocommit=True,
                # Behind a pooler the next look may meet another server process.
                prepare_threshold=None,
                connect_timeout=max(2, round(self._timeout_seconds)),
                fallback_application_name="outhaul operator",
            )
        server = settings.options.get("host") or settings.options.get("hostaddr") or ""
        return _Held(conn, server, opened_at=time.monotonic())

    async def _do(self, key: str, held: _Held, work: Callable[[Connection], Awaitable[T]], deadline: float) -> T:
        silent = False

        def give_up() -> None:
            nonlocal silent
            silent = True
            cut(held.conn)

        timer = asyncio.get_running_loop().call_at(deadline, give_up)
        try:
            if held.share is None:
                row = await (await held.conn.execute(_MOST_CONNECTIONS)).fetchone()
                held.share = int(row[0]) // SHARE_OF_SERVER if row else 0
            result = await work(held.conn)
        except psycopg.Error as error:
            if silent:
                raise Silent from error
            raise
        finally:
            timer.cancel()
            await self._give_back(key, held)
        return result

    async def _take(self, key: str) -> _Held | None:
        several = self._kept.get(key, [])
        while several:
            held = several.pop()
            if _is_quiet(held.conn):
                return held
            await held.conn.close()
        return None

    async def _give_back(self, key: str, held: _Held) -> None:
        now = time.monotonic()
        usable = not held.conn.closed and held.conn.info.transaction_status == TransactionStatus.IDLE
        kept = sum(each.server == held.server for several in self._kept.values() for each in several)
        most = min(self._kept_a_server, held.share or 0)
        if usable and now - held.opened_at < LIFE_SECONDS and kept < most:
            held.used_at = now
            self._kept.setdefault(key, []).append(held)
        else:
            await held.conn.close()

    async def _sweep(self) -> None:
        """Close what was not used for long."""
        now = time.monotonic()
        if now - self._swept_at < IDLE_SECONDS / 3:
            return
        self._swept_at = now
        for key, several in list(self._kept.items()):
            stale = [held for held in several if now - held.used_at > IDLE_SECONDS or not _is_quiet(held.conn)]
            self._kept[key] = [held for held in several if held not in stale]
            if not self._kept[key]:
                del self._kept[key]
            for held in stale:
                await held.conn.close()


def cut(conn: psycopg.AsyncConnection[Any] | psycopg.Connection[Any]) -> None:
    """End the connection under a statement that gets no answer: it fails at once, as if the server had gone."""
    if not conn.closed:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(conn.fileno())) as held:
            held.shutdown(socket.SHUT_RDWR)


def _is_quiet(conn: Connection) -> bool:
    """Nothing is due on an idle connection but its end."""
    if conn.closed:
        return False
    poller = select.poll()
    poller.register(conn.fileno(), select.POLLIN)
    return not poller.poll(0)

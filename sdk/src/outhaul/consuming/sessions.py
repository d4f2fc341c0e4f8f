"""The two drivers of steps: over a psycopg Connection in a thread, over an AsyncConnection on an event loop.

Nothing is decided here. Each step is one call or a few; what decides is the generator that yields them.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import psycopg
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.rows import tuple_row

from outhaul.consuming.failures import TransactionEnded
from outhaul.consuming.steps import (
    ROLLBACK,
    Begin,
    CallEach,
    CallMany,
    Commit,
    Execute,
    Function,
    IsConnected,
    Once,
    Rollback,
    Step,
    Steps,
    Unwatched,
    Watch,
)
from outhaul.context import caused_by
from outhaul.errors import OuthaulError
from outhaul.tracing import handling

T = TypeVar("T")


class HandlerExited(OuthaulError):
    """A handler called ``sys.exit()``: its message failed, the consumer goes on."""


class SyncSession:
    """Steps over a psycopg Connection, in the calling thread.

    ``connect`` is called whenever there is no usable connection; a session over a given ``connection`` has none.
    """

    def __init__(
        self,
        *,
        connection: psycopg.Connection[Any] | None = None,
        connect: Callable[[], psycopg.Connection[Any]] | None = None,
        watch: Watch | None = None,
        also: Mapping[type[Step], Callable[[Any], Any]] | None = None,
    ) -> None:
        self._given = connection
        self._connection = connection
        self._connect = connect
        self._watch: Watch = watch or Unwatched()
        self._transaction: psycopg.Transaction | None = None
        self._perform: dict[type[Step], Callable[[Any], Any]] = {
            Begin: self._begin,
            Commit: self._commit,
            Rollback: self._rollback,
            IsConnected: lambda _: _usable(self._connection),
            Execute: self._execute,
            Once: self._once,
            CallEach: self._call_each,
            CallMany: self._call_many,
            **(also or {}),
        }

    def drive(self, steps: Steps[T]) -> T:
        """Run a generator to its end; returns what it returned, raises what it raised."""
        perform = self._perform
        try:
            step = next(steps)
            while True:
                try:
                    result = perform[type(step)](step)
                except Exception as error:  # noqa: BLE001 - handed to the generator, which decides or raises it again
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return] # StopIteration.value is untyped; Steps[T] says what it is
        finally:
            self._rollback(ROLLBACK)  # only has work to do when interrupted in the middle

    def close(self) -> None:
        """Close the connection, unless it was given."""
        if self._given is None and self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ready(self) -> psycopg.Connection[Any]:
        if self._connect is not None and not _usable(self._connection):
            self.close()
            self._connection = self._connect()
        if self._connection is None:
            raise psycopg.OperationalError("there is no connection")
        return self._connection

    def _begin(self, _: Begin) -> None:
        transaction = psycopg.Transaction(self._ready())
        transaction.__enter__()
        self._transaction = transaction

    def _commit(self, _: Commit) -> None:
        transaction, self._transaction = self._transaction, None
        assert transaction is not None
        try:
            check_transaction(transaction.connection)
        except Exception:
            self._transaction = transaction
            raise
        transaction.__exit__(None, None, None)

    def _rollback(self, _: Rollback) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            undo = psycopg.Rollback()
            try:
                transaction.__exit__(type(undo), undo, None)
            except psycopg.Error:
                # A handler left a nested block open; what state the connection is in is nobody's to guess.
                transaction.connection.close()
        if self._given is None and self._connection is not None and not _idle(self._connection):
            self.close()

    def _execute(self, step: Execute) -> list[tuple[Any, ...]] | None:
        assert self._connection is not None
        cursor = self._connection.cursor(row_factory=tuple_row)
        cursor.execute(step.query, step.parameters)
        if cursor.description is None or cursor.rowcount == step.full:
            return None
        return cursor.fetchall()

    def _once(self, step: Once) -> list[tuple[Any, ...]]:
        connection = self._ready()
        cursor = connection.cursor(row_factory=tuple_row)
        if connection.autocommit:
            return _rows(cursor.execute(step.query, step.parameters))
        with connection.transaction():
            return _rows(cursor.execute(step.query, step.parameters))

    def _call_each(self, step: CallEach) -> int:
        connection, watch = self._connection, self._watch
        assert connection is not None
        for ran, (function, event) in enumerate(step.calls):
            if ran and time.monotonic() > step.until:
                return ran
            watch.begin((event,))
            try:
                with caused_by(str(event.id), event.traceparent), handling((event,)):
                    _refuse_coroutine(function, function(event, connection))
            except SystemExit as error:
                raise HandlerExited(f"handler called sys.exit({error.code!r})") from error
            finally:
                watch.end()
            check_transaction(connection)
        return len(step.calls)

    def _call_many(self, step: CallMany) -> None:
        assert self._connection is not None
        self._watch.begin(step.events)
        try:
            with handling(step.events, batch=True):
                _refuse_coroutine(step.function, step.function(list(step.events), self._connection))
        except SystemExit as error:
            raise HandlerExited(f"handler called sys.exit({error.code!r})") from error
        finally:
            self._watch.end()
        check_transaction(self._connection)


class AsyncSession:
    """Steps over a psycopg AsyncConnection, in the running event loop. Otherwise as SyncSession."""

    def __init__(
        self,
        *,
        connection: psycopg.AsyncConnection[Any] | None = None,
        connect: Callable[[], Awaitable[psycopg.AsyncConnection[Any]]] | None = None,
        watch: Watch | None = None,
        also: Mapping[type[Step], Callable[[Any], Awaitable[Any]]] | None = None,
    ) -> None:
        self._given = connection
        self._connection = connection
        self._connect = connect
        self._watch: Watch = watch or Unwatched()
        self._transaction: psycopg.AsyncTransaction | None = None
        self._perform: dict[type[Step], Callable[[Any], Awaitable[Any]]] = {
            Begin: self._begin,
            Commit: self._commit,
            Rollback: self._rollback,
            IsConnected: self._is_connected,
            Execute: self._execute,
            Once: self._once,
            CallEach: self._call_each,
            CallMany: self._call_many,
            **(also or {}),
        }

    async def drive(self, steps: Steps[T]) -> T:
        """As SyncSession.drive."""
        perform = self._perform
        try:
            step = next(steps)
            while True:
                try:
                    result = await perform[type(step)](step)
                except Exception as error:  # noqa: BLE001 - handed to the generator, which decides or raises it again
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return] # StopIteration.value is untyped; Steps[T] says what it is
        finally:
            await self._rollback(ROLLBACK)

    async def close(self) -> None:
        """Close the connection, unless it was given."""
        if self._given is None and self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()

    async def _ready(self) -> psycopg.AsyncConnection[Any]:
        if self._connect is not None and not _usable(self._connection):
            await self.close()
            self._connection = await self._connect()
        if self._connection is None:
            raise psycopg.OperationalError("there is no connection")
        return self._connection

    async def _begin(self, _: Begin) -> None:
        transaction = psycopg.AsyncTransaction(await self._ready())
        await transaction.__aenter__()
        self._transaction = transaction

    async def _commit(self, _: Commit) -> None:
        transaction, self._transaction = self._transaction, None
        assert transaction is not None
        try:
            check_transaction(transaction.connection)
        except Exception:
            self._transaction = transaction
            raise
        await transaction.__aexit__(None, None, None)

    async def _rollback(self, _: Rollback) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            undo = psycopg.Rollback()
            try:
                await transaction.__aexit__(type(undo), undo, None)
            except psycopg.Error:
                await transaction.connection.close()
        if self._given is None and self._connection is not None and not _idle(self._connection):
            await self.close()

    async def _is_connected(self, _: IsConnected) -> bool:
        return _usable(self._connection)

    async def _execute(self, step: Execute) -> list[tuple[Any, ...]] | None:
        assert self._connection is not None
        cursor = self._connection.cursor(row_factory=tuple_row)
        await cursor.execute(step.query, step.parameters)
        if cursor.description is None or cursor.rowcount == step.full:
            return None
        return await cursor.fetchall()

    async def _once(self, step: Once) -> list[tuple[Any, ...]]:
        connection = await self._ready()
        cursor = connection.cursor(row_factory=tuple_row)
        if connection.autocommit:
            await cursor.execute(step.query, step.parameters)
            return await cursor.fetchall() if cursor.description is not None else []
        async with connection.transaction():
            await cursor.execute(step.query, step.parameters)
            return await cursor.fetchall() if cursor.description is not None else []

    async def _call_each(self, step: CallEach) -> int:
        connection, watch = self._connection, self._watch
        assert connection is not None
        for ran, (function, event) in enumerate(step.calls):
            if ran and time.monotonic() > step.until:
                return ran
            watch.begin((event,))
            try:
                with caused_by(str(event.id), event.traceparent), handling((event,)):
                    await function(event, connection)
            except SystemExit as error:
                raise HandlerExited(f"handler called sys.exit({error.code!r})") from error
            finally:
                watch.end()
            check_transaction(connection)
        return len(step.calls)

    async def _call_many(self, step: CallMany) -> None:
        assert self._connection is not None
        self._watch.begin(step.events)
        try:
            with handling(step.events, batch=True):
                await step.function(list(step.events), self._connection)
        except SystemExit as error:
            raise HandlerExited(f"handler called sys.exit({error.code!r})") from error
        finally:
            self._watch.end()
        check_transaction(self._connection)


class TransactionAborted(OuthaulError):
    """A handler swallowed a database error and went on, in a transaction that PostgreSQL has given up."""


def check_transaction(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Raise unless the transaction is open and sound.

    Load-bearing: COMMIT in an aborted transaction is a rollback that reports no error, and psycopg's block ends in
    silence over a dead connection. Either would ack a message without its effect.
    """
    status = connection.pgconn.transaction_status
    if status == TransactionStatus.INTRANS:
        return
    if status == TransactionStatus.INERROR:
        raise TransactionAborted(
            "the handler went on after a database error: "
            "use ON CONFLICT, or `with tx.transaction():` around what may fail"
        )
    if status == TransactionStatus.IDLE:
        raise TransactionEnded("the handler committed or rolled back the transaction, which is the consumer's to end")
    if status == TransactionStatus.ACTIVE:
        raise TransactionAborted("the handler left a COPY or a stream unfinished on the connection")
    raise psycopg.OperationalError("the connection was lost in the transaction")


def _refuse_coroutine(function: Function, result: object) -> None:
    if result is not None and inspect.iscoroutine(result):
        result.close()
        raise TypeError(f"handler {function!r} returned a coroutine: write it as `async def`, or call what it returns")


def _rows(cursor: psycopg.Cursor[Any]) -> list[tuple[Any, ...]]:
    return cursor.fetchall() if cursor.description is not None else []


def _usable(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any] | None) -> bool:
    return connection is not None and not connection.closed and connection.pgconn.status == ConnStatus.OK


def _idle(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    return not connection.closed and connection.pgconn.transaction_status == TransactionStatus.IDLE

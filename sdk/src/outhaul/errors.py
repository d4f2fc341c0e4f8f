"""Everything Outhaul raises, one shallow tree.

::

    OuthaulError
    ├── ConfigurationError      a setting that cannot be used; names it and the way out
    ├── Unreachable             a part that does not answer
    │   ├── BrokerUnreachable
    │   └── DatabaseUnreachable
    ├── SchemaError             the database lacks tables, or has newer ones than this version knows
    ├── TopologyError           the broker's exchanges, queues or policies are not what was declared
    ├── TransactionRequired     add() was called where nothing would make it atomic
    ├── ForkedProcess           a running sender or consumer was carried over a fork
    ├── InvalidMessage          bytes that are no message we can handle
    └── Reject                  raised by a handler: to the dead-letter queue at once

Driver errors are wrapped once, where they cross into Outhaul, with ``__cause__`` kept.
"""

from __future__ import annotations


class OuthaulError(Exception):
    """Root of the tree: catch this to catch everything Outhaul raises on purpose."""


class ConfigurationError(OuthaulError):
    """A setting has a value that cannot be used.

    ``setting`` is the name a person would change (an environment variable, an option or an argument),
    ``value`` what it held (already redacted), ``remedy`` what to write instead.
    """

    def __init__(self, setting: str, value: object, remedy: str) -> None:
        shown = repr(value)
        super().__init__(f"{setting}={shown if len(shown) <= 200 else shown[:199] + '…'}: {remedy}")
        self.setting = setting
        self.value = value
        self.remedy = remedy


class Unreachable(OuthaulError):
    """A part Outhaul needs does not answer. ``part`` names it, ``address`` says where it was looked for.

    ``refused``: it answers and does not let us in, so that waiting alone will not cure it.
    """

    part = "service"

    def __init__(self, address: str, why: str, remedy: str = "", *, refused: bool = False) -> None:
        super().__init__(f"{self.part} at {address}: {why}" + (f"; {remedy}" if remedy else ""))
        self.address = address
        self.why = why
        self.remedy = remedy
        self.refused = refused


class BrokerUnreachable(Unreachable):
    """RabbitMQ (AMQP or its management API) does not answer or refuses the credentials."""

    part = "broker"


class DatabaseUnreachable(Unreachable):
    """PostgreSQL does not answer or refuses the credentials."""

    part = "database"


class SchemaError(OuthaulError):
    """The database's schema is missing, older or newer than this version needs."""


class TopologyError(OuthaulError):
    """The broker lacks a declared exchange, queue, binding or policy, or holds it differently."""


class TransactionRequired(OuthaulError):
    """``add()`` was called on an autocommit connection outside a transaction block.

    The message would be committed by itself, before or without the business row: the very
    inconsistency an outbox exists to prevent.
    """


class ForkedProcess(OuthaulError):
    """A sender or consumer was used in a child process forked after it started.

    Sockets and threads do not survive a fork; start it in the child (gunicorn: in ``post_fork``).
    """


class InvalidMessage(OuthaulError):
    """Bytes that cannot be handled as a message. ``reason`` is a dead-letter reason code."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Reject(OuthaulError):
    """Raised by a handler whose message can never succeed: it is dead-lettered at once with this reason.

    >>> raise Reject("no courier serves this address")
    Traceback (most recent call last):
    ...
    outhaul.errors.Reject: no courier serves this address
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

"""The waybill function with a handler that also counts in two rows, in any order: two of them conflict for real."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from typing import Any

import psycopg

from outhaul.events import Event
from outhaul_waybill import __main__, service
from outhaul_waybill.making import make_waybills

_order = random.SystemRandom()


def make_waybills_and_count(messages: Sequence[Event], tx: psycopg.Connection[Any]) -> None:
    """As the function's own, and each waybill counted twice over."""
    make_waybills(messages, tx)
    for name in _order.sample(("one", "other"), 2):
        tx.execute("UPDATE counters SET number = number + %s WHERE name = %s", (len(messages), name))
        tx.execute("SELECT pg_sleep(0.01)")  # so that the other one comes in between


if __name__ == "__main__":
    vars(service)["make_waybills"] = make_waybills_and_count
    sys.exit(__main__.main())

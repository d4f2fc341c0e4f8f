"""The waybill function with a handler that fails the first time it sees an order whose customer is `flaky-...`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import psycopg

from outhaul.events import Event
from outhaul_waybill import __main__, service
from outhaul_waybill.making import make_waybills

_seen: set[str] = set()


def make_waybills_in_the_end(messages: Sequence[Event], tx: psycopg.Connection[Any]) -> None:
    """As the function's own, but for a first failure of the flaky ones; each process has its own first time."""
    new = {str(each.id) for each in messages if each.data.customer.startswith("flaky-")} - _seen
    _seen.update(new)
    if new:
        raise ValueError("not the first time")
    make_waybills(messages, tx)


if __name__ == "__main__":
    vars(service)["make_waybills"] = make_waybills_in_the_end
    sys.exit(__main__.main())

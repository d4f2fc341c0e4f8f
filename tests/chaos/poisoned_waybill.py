"""The waybill function with a handler that some orders are poison to: by the customer, raise, kill or hang."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

import psycopg

from outhaul.events import Event
from outhaul_waybill import __main__, service
from outhaul_waybill.making import make_waybills


def make_waybills_or_die(messages: Sequence[Event], tx: psycopg.Connection[Any]) -> None:
    """As the function's own, but for the poison."""
    for message in messages:
        kind = message.data.customer.partition("-")[0]
        if kind == "raise":
            raise ValueError("poison")
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "hang":
            threading.Event().wait()
    make_waybills(messages, tx)


if __name__ == "__main__":
    vars(service)["make_waybills"] = make_waybills_or_die
    sys.exit(__main__.main())

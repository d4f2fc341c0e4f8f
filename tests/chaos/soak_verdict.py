"""How a round of a soak is judged: what is left once it should have drained, and both databases side by side."""

from __future__ import annotations

import time

import httpx
import psycopg

from chaos.ledger import Told, Verdict, judge
from chaos.ledger_reading import left_over, read
from chaos.soak_record import letters_again
from chaos.system import System, lasts

SETTLE_SECONDS = 180.0


def settle(system: System, told: Told, *, keys: str, letters: int) -> tuple[Verdict, dict[str, str]]:
    """Look until the account is whole: its verdict, and nothing; at the deadline the last one, and what is left where.

    What is left is counted by the broker, for ``read`` sees only what a queue hands out, and nothing unacknowledged.
    ``keys`` (a LIKE pattern) are the round's own, ``letters`` the dead letters that its faults made.
    """
    began = time.monotonic()
    verdict, left = Verdict(), {"account": "was never read: a server did not answer"}
    while True:
        late = time.monotonic() > began + SETTLE_SECONDS
        try:
            left = left_over(system.order_dsn, system.broker)
            if late or not left:
                seen = read(system.order_dsn, system.waybill_dsn, system.broker, keys=keys)
                took = round(time.monotonic() - began, 1)
                verdict = judge(told, seen, alerts=system.alerts.names(), drain_seconds=took)
                again, duplicated = letters_again(verdict.duplicated)
                others = len(verdict.violations()) - len(verdict.duplicated) + len(duplicated)
                if not left and not others and verdict.dead_lettered == letters + again:
                    return verdict, left
        except (httpx.HTTPError, psycopg.Error, OSError):
            pass  # what is left was read before, and is judged at the deadline
        if late:
            return verdict, left
        lasts(1)


def shortcomings(told: Told, verdict: Verdict, left: dict[str, str], *, letters: int) -> list[str]:
    """What the ledger does not count as a breach by itself, and no fault of a soak may cause."""
    found = [f"{place} has {what}, {SETTLE_SECONDS:g} s after everything was mended" for place, what in left.items()]
    if verdict.backlog and not left:
        found.append(f"the backlog is {verdict.backlog}, {SETTLE_SECONDS:g} s after everything was mended")
    if verdict.dead_lettered != letters:
        found.append(f"{verdict.dead_lettered} dead letters, and the faults made {letters}")
    if verdict.parked:
        found.append(f"{verdict.parked} parked rows, and nothing was sent that a broker refuses for itself")
    found += [f"{key} was refused with {status}" for key, status in list(told.refused.items())[:5]]
    return found


def compared(system: System) -> dict[str, int]:
    """Both databases read side by side by order id, in constant memory. ``letters``: orders that were poison."""
    found = {"orders": 0, "waybills": 0, "letters": 0, "missing": 0, "orphans": 0}
    with (
        psycopg.connect(system.order_dsn) as one,
        psycopg.connect(system.waybill_dsn) as other,
        one.cursor("orders") as orders,
        other.cursor("waybills") as waybills,
    ):
        orders.itersize = waybills.itersize = 5000
        left = iter(orders.execute("SELECT order_id, customer FROM orders ORDER BY order_id"))
        right = iter(waybills.execute("SELECT order_id FROM waybills ORDER BY order_id"))
        order, waybill = next(left, None), next(right, None)
        while order is not None or waybill is not None:
            if waybill is None or (order is not None and order[0] < waybill[0]):
                assert order is not None
                found["orders"] += 1
                found["missing" if order[1].startswith("order-") else "letters"] += 1
                order = next(left, None)
            elif order is None or waybill[0] < order[0]:
                found["waybills"] += 1
                found["orphans"] += 1
                waybill = next(right, None)
            else:
                found["orders"] += 1
                found["waybills"] += 1
                order, waybill = next(left, None), next(right, None)
    return found

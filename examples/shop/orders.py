"""A day of orders, each with the fault that will meet it, and the ledger that is drawn up in the evening.

Everything is drawn from one seed, so that the naive way and Outhaul meet the very same orders and faults.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

import psycopg

ORDERS_TABLE = """
CREATE TABLE orders (
    order_id   uuid        PRIMARY KEY,
    customer   text        NOT NULL,
    placed_at  timestamptz NOT NULL DEFAULT clock_timestamp()
)"""
# Neither example needs UNIQUE (order_id) to stay consistent; without it a second waybill would show up in the count.
WAYBILLS_TABLE = """
CREATE TABLE waybills (
    waybill_id uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    order_id   uuid        NOT NULL,
    customer   text        NOT NULL,
    made_at    timestamptz NOT NULL DEFAULT clock_timestamp()
)"""
INSERT_ORDER = "INSERT INTO orders (order_id, customer) VALUES (%s, %s)"
INSERT_WAYBILL = "INSERT INTO waybills (order_id, customer) VALUES (%s, %s)"


class Fault(Enum):
    """What goes wrong while an order is placed."""

    NONE = "none"
    COMMIT_FAILS = "the database connection is lost just before the commit"
    ANSWER_LOST = "the other side has done its work, its answer does not arrive"
    PROCESS_KILLED = "the order process is killed before the commit"


@dataclass(frozen=True, slots=True)
class Order:
    """One order and the fault it will meet."""

    order_id: UUID
    customer: str
    fault: Fault


def day_of_orders(count: int, *, seed: int) -> list[Order]:
    """``count`` orders; of every 200 about eight lose the commit, eight the answer, one the process."""
    rng = random.Random(seed)
    faults = list(Fault)
    return [
        Order(
            order_id=UUID(int=rng.getrandbits(128), version=4),
            customer=f"customer {rng.randrange(100)}",
            fault=rng.choices(faults, weights=[91.5, 4, 4, 0.5])[0],
        )
        for _ in range(count)
    ]


@dataclass(frozen=True, slots=True)
class Ledger:
    """Both databases compared, order by order."""

    faults: dict[UUID, Fault]
    orders: frozenset[UUID]
    waybills: Counter[UUID]

    @property
    def waybills_without_order(self) -> set[UUID]:
        """Goods will be sent that nobody has ordered."""
        return set(self.waybills) - self.orders

    @property
    def orders_without_waybill(self) -> set[UUID]:
        """A customer waits for goods that nobody will send."""
        return set(self.orders) - set(self.waybills)

    @property
    def orders_with_several_waybills(self) -> set[UUID]:
        """Goods will be sent twice."""
        return {order_id for order_id, count in self.waybills.items() if count > 1 and order_id in self.orders}

    @property
    def inconsistent(self) -> set[UUID]:
        """Every order id for which the two databases disagree."""
        return self.waybills_without_order | self.orders_without_waybill | self.orders_with_several_waybills

    def table(self) -> str:
        """The ledger for people."""
        injected, wrong = Counter(self.faults.values()), Counter(self.faults[i] for i in self.inconsistent)
        lines = [f"  {'fault injected':62}{'orders':>8}{'inconsistent':>14}"]
        lines += [f"  {fault.value:62}{injected[fault]:>8,}{wrong[fault]:>14,}" for fault in Fault]
        lines += [
            "",
            f"  orders committed {len(self.orders):,}, waybills {self.waybills.total():,}",
            f"  waybills without an order     {len(self.waybills_without_order):>6,}",
            f"  orders without a waybill      {len(self.orders_without_waybill):>6,}",
            f"  orders with several waybills  {len(self.orders_with_several_waybills):>6,}",
        ]
        return "\n".join(lines)


def draw_up(orders: Sequence[Order], *, order_dsn: str, waybill_dsn: str) -> Ledger:
    """Read both databases."""
    with psycopg.connect(order_dsn) as conn:
        committed = frozenset(row[0] for row in conn.execute("SELECT order_id FROM orders"))
    with psycopg.connect(waybill_dsn) as conn:
        waybills = Counter(row[0] for row in conn.execute("SELECT order_id FROM waybills"))
    return Ledger({order.order_id: order.fault for order in orders}, committed, waybills)

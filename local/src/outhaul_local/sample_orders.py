"""Orders to play with."""

from __future__ import annotations

import random
from typing import TypedDict

_CUSTOMERS = ("Ada", "Bertrand", "Chidi", "Dolores", "Emre", "Fatima", "Grace", "Hedy", "Ivan", "Jun")
_GOODS = (("TEA-01", 1999), ("MUG-07", 850), ("KETTLE-2", 4990), ("SPOON-6", 320), ("TRAY-3", 2450))


class Line(TypedDict):
    """One line of an order, as the order function takes it."""

    sku: str
    quantity: int
    unit_price_cents: int


class Order(TypedDict):
    """An order, as the order function takes it."""

    customer: str
    lines: list[Line]


def sample_order(number: int, *, seed: int = 0) -> Order:
    """The same order for the same numbers, so that a retry of it is the same request."""
    dice = random.Random(f"{seed}/{number}")  # noqa: S311 - play money
    goods = dice.sample(_GOODS, dice.randint(1, 3))
    return {
        "customer": dice.choice(_CUSTOMERS),
        "lines": [{"sku": sku, "quantity": dice.randint(1, 5), "unit_price_cents": cents} for sku, cents in goods],
    }

"""The first orders after a start: placed over HTTP, their waybills waited for and shown."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from outhaul_local.failure import LocalFailure
from outhaul_local.sample_orders import sample_order
from outhaul_local.waiting import TimedOut, wait_for

WAYBILL_SECONDS = 30.0
WIDE = 100


@dataclass(slots=True)
class _Placed:
    order_id: str
    customer: str
    lines: int
    waybill: dict[str, object] | None = None


def place_first_orders(
    order_url: str,
    waybill_url: str,
    console: Console,
    count: int,
    *,
    logs: tuple[Path | None, Path | None] = (None, None),
) -> None:
    """Place ``count`` orders and show their waybills. ``logs`` are the order and the waybill function's.

    Raises :class:`LocalFailure` when an order is not taken or a waybill does not come.
    """
    placed = []
    with httpx.Client(timeout=30, trust_env=False) as client:
        for number in range(count):
            body = sample_order(number)
            try:
                answer = client.post(f"{order_url}/orders", json=body)
            except httpx.HTTPError as error:
                raise LocalFailure(
                    f"the order function at {order_url} does not answer: {error}", log=logs[0]
                ) from error
            if answer.status_code != 201:
                raise LocalFailure(
                    f"the first order was answered {answer.status_code}: {answer.text[:300]}", log=logs[0]
                )
            placed.append(_Placed(answer.json()["order_id"], body["customer"], len(body["lines"])))

        def all_there() -> bool:
            for one in placed:
                if one.waybill is None:
                    with suppress(httpx.HTTPError):  # asked again until the deadline
                        answer = client.get(f"{waybill_url}/waybills/{one.order_id}")
                        if answer.status_code == 200:
                            one.waybill = answer.json()
            return all(one.waybill is not None for one in placed)

        try:
            wait_for(all_there, seconds=WAYBILL_SECONDS, what="the last waybill", interval_seconds=0.02)
        except TimedOut as late:
            missing = sum(one.waybill is None for one in placed)
            raise LocalFailure(
                f"{missing} of {count} orders have no waybill after {WAYBILL_SECONDS:g} s",
                remedy="`uv run outhaul status` and `outhaul trace <order_id>` tell where they are",
                log=logs[1],
            ) from late
    _show(console, placed)


def _show(console: Console, placed: list[_Placed]) -> None:
    # Both ids in full, to be copied, fit 80 columns; the rest is shown where there is room.
    roomy = console.width >= WIDE
    table = Table(title=f"{len(placed)} orders, {len(placed)} waybills", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("order", "waybill", *(("customer", "lines") if roomy else ())):
        table.add_column(heading, no_wrap=True)
    for one in placed:
        waybill = one.waybill or {}
        more = (one.customer, str(one.lines)) if roomy else ()
        table.add_row(one.order_id, str(waybill.get("waybill_id", "")), *more)
    console.print(table)

"""`make up`: everything brought to run, proved with a few orders, and left running in the background."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rich.console import Console

from outhaul_local.bring_up import BringUp
from outhaul_local.exported import read_exported
from outhaul_local.first_orders import place_first_orders
from outhaul_local.home import Home
from outhaul_local.installation import Installation
from outhaul_local.interrupts import Interrupted, Interrupts
from outhaul_local.progress import Steps
from outhaul_local.state import FUNCTIONS


def up(home: Home, console: Console, *, orders: int, allow_remote: bool) -> None:
    """Bring everything up. Raises LocalFailure or ConfigurationError, with nothing left that this run started."""
    began = time.monotonic()
    exported = read_exported(os.environ, home, allow_remote=allow_remote)
    home.make()
    with Interrupts() as interrupts, home.lock(told="Another command is at work here; waiting for it."):
        installation = Installation.open(home)
        with Steps(console) as steps:
            run = BringUp(installation, steps, interrupts)
            run.run(exported)
        try:
            if run.started and orders > 0:
                order, waybill = (installation.function(name) for name in FUNCTIONS)
                place_first_orders(order.url, waybill.url, console, orders, logs=(order.log, waybill.log))
            _farewell(installation, console, run, time.monotonic() - began)
        except Interrupted:
            # Up to its last line this command can be taken back.
            run.undo()
            raise


def _farewell(installation: Installation, console: Console, run: BringUp, seconds: float) -> None:
    for note in run.notes:
        console.print(f"[yellow]Note:[/] {note}")
    order, waybill = installation.function("order").url, installation.function("waybill").url
    home = installation.home
    shown = _shown(home)
    state = f"Up in {seconds:.1f} s" if run.started else f"Everything ran already ({seconds:.1f} s)"
    management = installation.management_url()
    broker = management.partition("://")[0] + "://" + management.rpartition("@")[2]
    console.print(
        f"""
[bold green]{state}.[/] It goes on in the background until `make down`.

  orders     {order}/orders   (API: {order}/openapi.json)
  waybills   {waybill}/waybills/<order_id>
  RabbitMQ   {broker}   (user and password in {shown}/env)
  alerts     {shown}/log/alerts.jsonl
  logs       {shown}/log/

[bold]Try next[/]
  curl -s {order}/orders -H 'Content-Type: application/json' \\
       -d '{{"customer": "Ada", "lines": \\[{{"sku": "TEA-01", "quantity": 2, "unit_price_cents": 1999}}]}}'
  source {shown}/env && uv run outhaul status
  make demo N=5000 KILL=1        # kill the functions at random meanwhile: nothing is lost
  make down                      # stops it; the data stays (DATA=delete removes it)
"""
    )


def _shown(home: Home) -> str:
    try:
        return str(home.folder.relative_to(Path.cwd()))
    except ValueError:
        return str(home.folder)

"""Clocks of the functions' hosts that are hours off: only the database's clock counts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from chaos.system import System, count

pytestmark = [pytest.mark.chaos, pytest.mark.needs("faketime")]

LIBRARIES = (Path("/usr/lib/x86_64-linux-gnu/faketime"), Path("/usr/lib/aarch64-linux-gnu/faketime"))


def clock(offset: str) -> dict[str, str]:
    """The variables that make a process believe in another time of day; what it measures with stays as it is."""
    library = next((each / "libfaketime.so.1" for each in LIBRARIES if each.is_dir()), None)
    if library is None:
        pytest.skip("faketime's library is not where Debian puts it")
    return {"LD_PRELOAD": str(library), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def logged_at_another_time(system: System) -> bool:
    """Whether every line of the functions' logs is hours from our time: they do believe in theirs."""
    now = datetime.now(UTC)
    lines = [json.loads(line) for each in system.functions for line in each.log.read_text().splitlines()]
    return all(abs(datetime.fromisoformat(line["time"]) - now) > timedelta(hours=6) for line in lines)


@pytest.mark.parametrize(("order", "waybill"), [("-7h", "+7h"), ("+7h", "-7h")])
def test_clocks_hours_off_in_both_directions_cost_no_order(order: str, waybill: str, system: System) -> None:
    system.start(order_settings=clock(order), waybill_settings=clock(waybill))
    with system.load() as load:
        load.more(40)
        system.orders[0].restart()
        system.orders[0].wait_ready()
        load.more(40)
        system.settle(load.finish())
    now = "SELECT count(*) FROM orders WHERE abs(extract(epoch FROM created_at - clock_timestamp())) > 600"
    assert count(system.order_dsn, now) == 0
    assert logged_at_another_time(system)

"""The demo's last table, and its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from outhaul_local.demo_ledger import Ledger

SHOWN_LOST = 10


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the client saw. Durations are seconds."""

    run: str
    accepted: int
    refused: int
    skipped: int
    unknown: int
    retries: int
    replayed: int
    duplicates: int
    kills: Mapping[str, int]
    send_seconds: float
    total_seconds: float


def lost(outcome: Outcome, ledger: Ledger) -> int:
    """Orders that came to nothing: answered 201 and not in the database, or there without waybill and not parked."""
    return max(0, outcome.accepted - ledger.committed) + len(ledger.without_waybill) - ledger.parked


def print_report(console: Console, outcome: Outcome, ledger: Ledger) -> bool:
    """Print it. Whether nothing was lost and nothing is left unknown."""
    missing = lost(outcome, ledger)
    table = Table(title=f"Run {outcome.run}", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for name, value in rows(outcome, ledger):
        table.add_row(name, value)
    style = "[bold green]" if missing == 0 else "[bold red]"
    table.add_row(f"{style}lost", f"{style}{missing}")
    console.print(table)
    if missing and ledger.without_waybill:
        shown = ", ".join(str(order) for order in ledger.without_waybill[:SHOWN_LOST])
        console.print(f"Without a waybill: {shown}; `outhaul trace <order_id>` tells where each one is.")
    return missing == 0 and outcome.unknown == 0


def rows(outcome: Outcome, ledger: Ledger) -> list[tuple[str, str]]:
    """The table's rows but the last. Those that count trouble appear only where there was some."""
    killed = sum(outcome.kills.values())
    optional = [
        ("refused by the order function", outcome.refused),
        ("lines skipped", outcome.skipped),
        ("no answer (outcome unknown)", outcome.unknown),
        ("parked", ledger.parked),
        ("requests sent again", outcome.retries),
        ("  answered from the first try", outcome.replayed),
    ]
    # A killed consumer takes the last moments of its count with it.
    duplicates = f"{'at least ' if outcome.kills.get('waybill') else ''}{outcome.duplicates}"
    rate = outcome.accepted / outcome.send_seconds if outcome.send_seconds else 0.0
    found = [
        ("accepted", str(outcome.accepted)),
        ("sent", str(ledger.sent)),
        ("waybills", str(ledger.waybills)),
        ("duplicates absorbed", duplicates),
        *((name, str(count)) for name, count in optional if count),
        *(("commit to waybill, " + name, _milliseconds(ledger.percentile(share))) for name, share in _SHARES),
        ("elapsed", f"{outcome.total_seconds:.1f} s"),
        ("orders accepted a second", f"{rate:.0f}"),
    ]
    if killed:
        found.append(("functions killed", ", ".join(f"{name} {count}x" for name, count in outcome.kills.items())))
    return found


_SHARES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"

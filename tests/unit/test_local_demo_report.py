from dataclasses import replace
from uuid import uuid4

from rich.console import Console

from outhaul_local.demo_ledger import Ledger
from outhaul_local.demo_report import Outcome, lost, print_report, rows
from outhaul_local.metrics_scrape import DUPLICATES, counter_in

FINE = Outcome(
    run="demo-1",
    accepted=3,
    refused=0,
    skipped=0,
    unknown=0,
    retries=0,
    replayed=0,
    duplicates=0,
    kills={},
    send_seconds=1.5,
    total_seconds=2.0,
)
WHOLE = Ledger(committed=3, sent=3, waybills=3, seconds=[0.010, 0.020, 0.500])


def test_a_run_whose_orders_all_have_waybills_lost_nothing() -> None:
    assert lost(FINE, WHOLE) == 0


def test_an_order_without_waybill_is_lost() -> None:
    assert lost(FINE, Ledger(committed=3, sent=3, waybills=2, without_waybill=[uuid4()])) == 1


def test_a_parked_order_is_visible_and_not_lost() -> None:
    assert lost(FINE, Ledger(committed=3, sent=2, parked=1, waybills=2, without_waybill=[uuid4()])) == 0


def test_an_order_that_was_answered_and_is_not_in_the_database_is_lost() -> None:
    assert lost(replace(FINE, accepted=4), WHOLE) == 1


def test_an_order_committed_without_an_answer_counts_by_its_waybill() -> None:
    assert lost(replace(FINE, accepted=2, unknown=1), WHOLE) == 0


def test_the_verdict_is_no_when_an_outcome_stayed_unknown() -> None:
    silent = Console(quiet=True)
    assert print_report(silent, FINE, WHOLE)
    assert not print_report(silent, replace(FINE, unknown=1), WHOLE)


def test_rows_about_trouble_appear_only_with_trouble() -> None:
    assert "parked" not in dict(rows(FINE, WHOLE))
    table = dict(rows(replace(FINE, kills={"waybill": 2}, duplicates=5, skipped=1), WHOLE))
    assert table["duplicates absorbed"] == "at least 5"
    assert table["functions killed"] == "waybill 2x"
    assert table["lines skipped"] == "1"


def test_percentiles_are_of_commit_to_waybill() -> None:
    table = dict(rows(FINE, WHOLE))
    assert table["commit to waybill, p50"] == "20.0 ms"
    assert table["commit to waybill, p99"] == "500.0 ms"
    assert dict(rows(FINE, Ledger()))["commit to waybill, p50"] == "-"


def test_a_counter_is_found_among_prometheus_lines() -> None:
    text = f'# HELP x y\nouthaul_inbox_consumed_total{{result="done"}} 12.0\n{DUPLICATES} 7.0\n'
    assert counter_in(text, DUPLICATES) == 7
    assert counter_in("", DUPLICATES) == 0

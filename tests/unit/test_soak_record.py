"""What a soak keeps of itself, and when it may go on."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from chaos.soak import arguments, begin, main
from chaos.soak_faults import LOSES_LETTERS, menu
from chaos.soak_record import Record, Round, letters_again


def a_round(number: int, **breaches: list[str]) -> Round:
    counts = {"attempted": 12, "acknowledged": 10, "committed": 10, "waybills": 9, "dead_lettered": 1}
    return Round(number, 2.5, 0.5, counts, 1, 0, ["broker: garbage"], breaches, [], {"harness": 50.0})


def test_a_record_read_again_is_the_same(tmp_path: Path) -> None:
    record = Record("seed", 100, [a_round(1), a_round(2)], {"machine": "this"}, [{"orders": 20, "missing": 0}])
    record.save(tmp_path / "new folder" / "state.json")
    assert Record.load(tmp_path / "new folder" / "state.json") == record


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seed": "s", "orders": 1, "rounds": [{"odd": 1}]}'])
def test_a_state_that_is_none_is_refused_with_the_way_out(text: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ValueError, match="remove it"):
        Record.load(tmp_path / "state.json")


def test_a_run_goes_on_with_its_own_seed_and_refuses_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state.json"
    Record("first", 100, [a_round(1)]).save(state)
    assert begin(arguments(["--state", str(state), "--orders", "500"])).seed == "first"
    assert main(["--state", str(state), "--seed", "second"]) == 2
    assert "first" in capsys.readouterr().err


def test_counts_and_breaches_add_up_over_rounds_and_databases() -> None:
    record = Record("seed", 100, [a_round(1, lost=["one"]), a_round(2, lost=["two"], other=["three"])])
    record.final = [{"orders": 1, "waybills": 1, "letters": 0, "missing": 1, "orphans": 2}]
    assert record.totals()["acknowledged"] == 20
    assert record.breaches() == {
        "lost": 2,
        "duplicated": 0,
        "unexpected": 0,
        "unreported": 0,
        "other": 1,
        "databases": 3,
    }
    assert not record.whole()
    text = record.markdown()
    assert "Invariants were breached" in text
    assert "- round 2: three" in text
    json.dumps(record.facts)


def test_a_record_without_breaches_says_so() -> None:
    record = Record("seed", 20, [a_round(1), a_round(2)])
    assert record.whole()
    assert "Every invariant held." in record.markdown()


@pytest.mark.parametrize("wrong", [["--orders", "0"], ["--minutes", "0"], ["--rate", "-1"], ["--orders", "many"]])
def test_a_bound_that_is_none_is_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(wrong)


def test_the_same_seed_and_round_choose_the_same_faults() -> None:
    faults = menu()
    assert len({(each.place, each.name) for each in faults}) == len(faults)
    assert LOSES_LETTERS in {each.name for each in faults}
    chosen = [[random.Random("s round 3").choice(faults).name for _ in range(5)] for _ in range(2)]
    assert chosen[0] == chosen[1]


def test_a_letter_that_is_there_again_is_told_from_every_other_duplicate() -> None:
    told = [
        "order 01a209cd (kill-r3-0) has 3 dead letter",
        "message garbage-r1-2, made to be a dead letter, is 2",
        "order 01a209ce (order-r3-7) has 1 waybill, 1 dead letter",
        "order 01a209cf (order-r3-8) has 2 waybill",
        "key order-r3-9 has 2 orders: a, b",
    ]
    assert letters_again(told) == (3, told[2:])

"""The soak itself, in small: it ends with a whole record, and goes on where it was ended."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from chaos.soak import main
from chaos.soak_record import Record
from conftest import missing
from outhaul_local.rabbitmq import find_binary

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


def test_a_soak_that_was_ended_goes_on_and_reports_the_whole(tmp_path: Path) -> None:
    if find_binary(os.environ.get("OUTHAUL_RABBITMQ_SERVER")) is None:
        missing("rabbitmq-server")
    state, report = tmp_path / "state.json", tmp_path / "report"
    common = ["--seed", "small", "--round-orders", "60", "--state", str(state), "--report", str(report)]
    assert main([*common, "--orders", "1000000", "--minutes", "0.3"]) == 0
    first = Record.load(state)
    assert first.rounds
    assert main([*common, "--orders", str(first.acknowledged + 50)]) == 0
    assert not state.exists(), "it is done"
    told = json.loads(report.with_suffix(".json").read_text())
    assert told["whole"]
    assert [each["number"] for each in told["rounds"]] == list(range(1, len(told["rounds"]) + 1))
    assert len(told["rounds"]) > len(first.rounds)
    assert len(told["final"]) == 2
    assert "Every invariant held." in report.with_suffix(".md").read_text()

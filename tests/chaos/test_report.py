"""The report of a run of scenarios is written whatever became of them, and carries what it is to be judged by."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from chaos.function import TESTS

SCENARIOS = """
def test_one_that_holds() -> None:
    pass

def test_one_that_is_breached() -> None:
    raise AssertionError("2 orders were lost")
"""


def test_a_run_that_fails_is_reported_with_its_facts(tmp_path: Path) -> None:
    folder, report = tmp_path / "chaos", tmp_path / "report.json"
    folder.mkdir()
    (folder / "test_scenarios.py").write_text(SCENARIOS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "chaos.conftest", "-p", "no:cacheprovider", str(folder)],
        env={**os.environ, "PYTHONPATH": str(TESTS), "CHAOS_SEED": "5eed", "CHAOS_REPORT": str(report)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "CHAOS_SEED=5eed" in ended.stdout
    told = json.loads(report.read_text())
    assert told["seed"] == "5eed"
    assert all(told[fact] for fact in ("begun", "version", "machine", "Python"))
    outcomes = {name.rpartition("::")[2]: row["outcome"] for name, row in told["scenarios"].items()}
    assert outcomes == {"test_one_that_holds": "passed", "test_one_that_is_breached": "failed"}

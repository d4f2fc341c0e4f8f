"""docs/failure-modes.md names only tests and alerts that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "failure-modes.md").read_text(encoding="utf-8")
PRODUCT = [ROOT / "sdk" / "src", ROOT / "functions"]


def source(*folders: Path, pattern: str) -> str:
    return "\n".join(file.read_text(encoding="utf-8") for folder in folders for file in folder.rglob(pattern))


def test_every_test_named_exists() -> None:
    defined = set(re.findall(r"def (test_\w+)", source(ROOT / "tests", pattern="test_*.py")))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 40
    assert not named - defined


def test_every_alert_named_exists() -> None:
    rules = (ROOT / "sdk" / "src" / "outhaul" / "rules" / "outhaul.rules.yml").read_text(encoding="utf-8")
    known = set(re.findall(r"alert: (\w+)", rules)) | set(
        re.findall(r'"(Outhaul\w+)"', source(*PRODUCT, pattern="*.py"))
    )
    # Put together from the part's name.
    known |= {"OuthaulBrokerUnreachable", "OuthaulDatabaseUnreachable"}
    assert not set(re.findall(r"`(Outhaul\w+)`", PAGE)) - known


def test_every_metric_named_exists() -> None:
    metrics = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    assert not [name for name in re.findall(r"`(outhaul_\w+)`", PAGE) if f"`{name}`" not in metrics]


def test_a_row_without_a_test_says_so() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| failure")]
    assert not [row for row in rows if "`test_" not in row and "not yet proven" not in row]


def test_every_row_says_what_should_happen_and_what_a_person_sees() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    assert len(rows) > 60
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 4, row
        assert all(cells), row

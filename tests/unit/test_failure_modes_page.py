"""docs/failure-modes.md names only what exists: tests, alerts, metrics, log lines; and the quick part as it is."""

from __future__ import annotations

import ast
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
    # Some names are put together from a part's; a scenario waited for these until people were told.
    known |= set(re.findall(r'"(Outhaul\w+)"', source(ROOT / "tests" / "chaos", pattern="test_people_are_told.py")))
    assert not set(re.findall(r"`(Outhaul\w+)`", PAGE)) - known


def test_every_metric_named_exists() -> None:
    metrics = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    assert not [name for name in re.findall(r"`(outhaul_\w+)`", PAGE) if f"`{name}`" not in metrics]


def test_every_log_line_is_quoted_as_the_product_says_it() -> None:
    said = source(*PRODUCT, ROOT / "operator" / "src", pattern="*.py")
    for row in PAGE.splitlines():
        for quoted in re.findall(r"log lines?(.{0,60})", row):
            words = re.findall(r"`([^`]+)`", quoted)
            assert words, f"which log line? {row}"
            assert words[0] in said


def test_the_quick_part_is_named_as_it_is_marked() -> None:
    marked = {
        each.name
        for file in (ROOT / "tests" / "chaos").glob("test_*.py")
        for each in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(each, ast.FunctionDef) and any("chaos_quick" in ast.unparse(by) for by in each.decorator_list)
    }
    [section] = re.findall(r"^## The quick part$(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`(test_\w+)`", section)) == marked


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

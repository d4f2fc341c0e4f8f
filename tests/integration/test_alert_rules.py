"""The Prometheus rules: valid, firing when they should and not else, and built on metrics that exist."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from outhaul import rules
from outhaul.metrics import Metrics

CASES = Path(__file__).parent / "prometheus" / "outhaul.rules.test.yml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The rules beside their cases, as promtool wants them."""
    (tmp_path / "outhaul.rules.yml").write_text(rules.text())
    shutil.copy(CASES, tmp_path)
    return tmp_path


def promtool(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.needs("promtool")
def test_prometheus_takes_the_rules(folder: Path) -> None:
    checked = promtool(folder, "check", "rules", "--lint=all", "--lint-fatal", "outhaul.rules.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.needs("promtool")
def test_alerts_fire_when_they_should_and_not_else(folder: Path) -> None:
    tested = promtool(folder, "test", "rules", CASES.name)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.needs("promtool")
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("- outhaul:queue_messages_unacked) > 0", "- outhaul:queue_messages_unacked) > 9"),
        ("absent(outhaul_outbox_oldest_age_seconds)", "outhaul_outbox_oldest_age_seconds > 1e9"),
    ],
)
def test_the_cases_notice_a_rule_that_is_wrong(right: str, wrong: str, folder: Path) -> None:
    text = rules.text()
    assert right in text
    (folder / "outhaul.rules.yml").write_text(text.replace(right, wrong))
    assert promtool(folder, "test", "rules", CASES.name).returncode != 0


def test_every_metric_named_exists() -> None:
    known = {instrument.name for instrument in Metrics.off().instruments()}
    named = set(re.findall(r"\bouthaul_[a-z_]+", rules.text()))
    assert named <= known


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    alerts = rules.text().split("- alert: ")[1:]
    assert len(alerts) > 15
    for alert in alerts:
        for part in ("severity: ", "summary: ", "description: ", "runbook: "):
            assert part in alert, f"{alert.splitlines()[0]} has no {part}"


def test_every_alert_is_tried_by_a_case() -> None:
    tried = CASES.read_text()
    names = re.findall(r"- alert: (\w+)", rules.text())
    assert [name for name in names if name not in tried and not name.startswith("OuthaulBroker")] == []


def test_the_page_of_alerts_lists_each_with_its_severity() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "alerts.md").read_text()
    table = page.partition("## Prometheus rules")[2]
    listed = dict(re.findall(r"^\| \[`(\w+)`\]\(\S+\) \| (\w+)", table, re.MULTILINE))
    alerts = rules.text().split("- alert: ")[1:]
    assert listed == {alert.split()[0]: alert.split("severity: ")[1].split()[0] for alert in alerts}

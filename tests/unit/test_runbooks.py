"""Whoever is woken finds what to do under the alert's own name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNBOOKS = ROOT / "docs" / "runbooks.md"
RULES = (ROOT / "sdk/src/outhaul/rules/outhaul.rules.yml", ROOT / "helm/outhaul/templates/monitoring.yaml")
# Errors, not alerts.
OTHER_NAMES = {"OuthaulError", "OuthaulAttributes"}


def alerts() -> set[str]:
    """The alerts of the Prometheus rules, and those that functions and operator post themselves."""
    found = {name for path in RULES for name in re.findall(r"- alert: (Outhaul\w+)", path.read_text("utf-8"))}
    for folder in ("sdk/src", "operator/src", "functions"):
        for path in (ROOT / folder).rglob("*.py"):
            found |= set(re.findall(r'"(Outhaul[A-Z]\w+)"', path.read_text("utf-8")))
    return found - OTHER_NAMES


def headings() -> set[str]:
    return set(re.findall(r"^### (Outhaul\w+)$", RUNBOOKS.read_text("utf-8"), flags=re.MULTILINE))


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    # Put together from the part's name in the sender.
    assert headings() == alerts() | {"OuthaulBrokerUnreachable", "OuthaulDatabaseUnreachable"}


@pytest.mark.parametrize("name", sorted(headings()))
def test_the_page_of_alerts_links_to_the_runbook(name: str) -> None:
    page = (ROOT / "docs" / "reference" / "alerts.md").read_text("utf-8")
    assert f"(../runbooks.md#{name.lower()})" in page


def test_every_rule_names_its_runbook() -> None:
    for path in RULES:
        text = path.read_text("utf-8")
        for name in re.findall(r"- alert: (Outhaul\w+)", text):
            assert f"runbook_page: docs/runbooks.md#{name.lower()}\n" in text

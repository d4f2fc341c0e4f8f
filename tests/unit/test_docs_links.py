"""No page points to a page, a file or a heading that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "examples" / "README.md", *sorted(ROOT.glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The headings' anchors, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.relative_to(ROOT)} points to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.relative_to(ROOT)} points to {link}"


def linked_from(index: Path) -> set[Path]:
    links = LINK.findall(index.read_text(encoding="utf-8"))
    return {(index.parent / link.partition("#")[0]).resolve() for link in links}


def test_every_page_is_in_the_index() -> None:
    docs = ROOT / "docs"
    # Decisions are listed by their folder, and reports by a page of theirs.
    linked = linked_from(docs / "README.md") | linked_from(docs / "reports" / "README.md") | {docs / "README.md"}
    pages = {page for page in docs.rglob("*.md") if page.parent.name != "decisions"}
    assert not {str(page.relative_to(ROOT)) for page in pages - linked}

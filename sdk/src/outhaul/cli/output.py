"""How results are shown: a table for people, or one JSON document for scripts."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any
from uuid import UUID

import click

from outhaul.tools.findings import Finding, Level

COLOURS = {Level.OK: "green", Level.SKIPPED: "bright_black", Level.WARNING: "yellow", Level.PROBLEM: "red"}
MINUTE, HOUR, DAY = 60, 3600, 86400


def write_json(document: Any) -> None:
    """One JSON document on stdout: instants in RFC 3339 (UTC), ids as text."""
    text = json.dumps(document, default=_jsonable, ensure_ascii=False, indent=2)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        # Half a character in somebody's payload, or a terminal that knows few of them: escapes are JSON as well.
        text = json.dumps(document, default=_jsonable, indent=2)
    sys.stdout.write(text + "\n")


def clean(text: str) -> str:
    """Foreign text without what could move a terminal's cursor or cannot be written at all."""
    return "".join(character if character.isprintable() else "�" for character in text)


def write_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell; numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(headers, *cells, strict=True)]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(headers))]
    for line in ([name.upper() for name in headers], *cells):
        parts = [
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ]
        click.echo("  ".join(parts).rstrip())


def write_findings(findings: Sequence[Finding]) -> None:
    """One line each, the remedy below it where there is one."""
    width = max((len(finding.check) for finding in findings), default=0)
    for finding in findings:
        mark = click.style(f"{finding.level.value:<7}", fg=COLOURS[finding.level])
        click.echo(f"{mark}  {finding.check:<{width}}  {clean(finding.text)}")
        if finding.remedy:
            click.echo(f"{'':<7}  {'':<{width}}  → {clean(finding.remedy)}")


def instant(moment: datetime | None) -> str:
    """An instant for people: UTC, to the millisecond."""
    if moment is None:
        return "-"
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def age(seconds: float) -> str:
    """An age for people, in its two largest units.

    >>> age(0.25), age(75), age(7_500), age(200_000)
    ('250ms', '1m15s', '2h5m', '2d7h')
    """
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f}ms"
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < MINUTE:
        return f"{whole}s"
    if whole < HOUR:
        return f"{whole // MINUTE}m{whole % MINUTE}s"
    if whole < DAY:
        return f"{whole // HOUR}h{whole % HOUR // MINUTE}m"
    return f"{whole // DAY}d{whole % DAY // HOUR}h"


def shorten(text: str, characters: int) -> str:
    """Text on one line, cut with an ellipsis."""
    flat = " ".join(text.split())
    return flat if len(flat) <= characters else flat[: characters - 1] + "…"


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return clean(str(value))


def _jsonable(value: object) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.hex()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} has no JSON form")

"""Durations as people write them: ``250ms``, ``30s``, ``5m``, ``1h``, ``7d``, ``1h30m``.

A bare number is refused: RabbitMQ counts in milliseconds, libpq in seconds.
"""

from __future__ import annotations

import math
import re

from outhaul.errors import ConfigurationError

_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_PART = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)(ms|d|h|m|s)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")
_WAY_OUT = "write a number with its unit, such as 250ms, 30s, 5m, 1h or 7d"


def parse_duration(text: str, *, setting: str = "duration") -> float:
    """Seconds meant by ``text``. Raises ConfigurationError naming ``setting`` for anything else.

    >>> parse_duration("1h30m"), parse_duration("250ms")
    (5400.0, 0.25)
    """
    written = text.strip()
    if not written.isascii() or not _WHOLE.fullmatch(written):
        raise ConfigurationError(setting, text[:80], _WAY_OUT)
    return sum(float(number) * _MILLISECONDS[unit] for number, unit in _PART.findall(written)) / 1000


def format_duration(seconds: float) -> str:
    """The shortest exact form in one unit, to the millisecond; it parses back to the same duration.

    >>> format_duration(5), format_duration(300), format_duration(0.25), format_duration(90)
    ('5s', '5m', '250ms', '90s')
    """
    if not math.isfinite(seconds) or seconds < 0:
        raise ConfigurationError("duration", seconds, "must be a finite number of seconds, not negative")
    milliseconds = round(seconds * 1000)
    if milliseconds == 0:
        return "0s"
    for unit, size in _MILLISECONDS.items():
        if milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    raise AssertionError("every whole number is a multiple of one millisecond")

"""The exit codes, the same for every command, so that scripts can branch on them."""

from __future__ import annotations

from typing import Final

FINE: Final = 0
FINDING: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
DEFECT: Final = 4
INTERRUPTED: Final = 130

"""The command `outhaul`.

Each subcommand is a module of this package, imported only when it is called, so that `outhaul --help` answers at
once. Exit codes: 0 fine, 1 a finding a person should look at, 2 usage or a wrong setting, 3 a part cannot be
reached, 4 a defect of this program, 130 interrupted.
"""

from __future__ import annotations

from outhaul.cli.group import main

__all__ = ["main"]

"""The command `outhaul`.

Each subcommand is a module of this package, imported only when it is called, so that `outhaul --help` answers at
once. Exit codes: 0 fine, 1 a finding a person should look at, 2 usage or a wrong setting, 3 a part cannot be
reached, 4 a defect of this program, 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """The console script: run the command, or say what must be installed for it."""
    try:
        from outhaul.cli.group import main as run  # noqa: PLC0415 - so that a missing extra is no traceback
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write("outhaul: the command needs click: pip install 'outhaul[cli,binary]'\n")
        raise SystemExit(2) from error
    run()

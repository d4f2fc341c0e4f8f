"""``python -P -m outhaul_operator``: the operator, told by environment variables alone."""

from __future__ import annotations

import argparse
import os
import sys

from outhaul.configuration.settings_table import SETTINGS


def help_text() -> str:
    """What the operator can be told, from the table of settings."""
    lines = ["Settings (environment variables):"]
    for setting in SETTINGS:
        if "operator" in setting.used_by.split(", "):
            default = f" [{setting.default}]" if setting.default is not None else ""
            lines += [f"  {setting.name}{default}", f"      {setting.meaning}"]
    return "\n".join(lines)


def start() -> int:
    """Answer ``--help``, or run. Exit code 2 for arguments and settings that cannot be used."""
    argparse.ArgumentParser(
        prog="python -P -m outhaul_operator",
        description="Looks after Outbox, Inbox, Resend and Redrive resources, until SIGTERM.",
        epilog=help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    # Here, because help need not wait half a second for the libraries.
    from outhaul_operator.main import main  # noqa: PLC0415 - as said

    return main()


if __name__ == "__main__":
    code = start()
    sys.stdout.flush()
    sys.stderr.flush()
    # The interpreter would wait at its end for every thread, and one may hang in a look-up of a dead name. Whatever is
    # to be done at the end is done by now.
    os._exit(code)

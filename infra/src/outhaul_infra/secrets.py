"""`python -m outhaul_infra.secrets`: make the secrets a stack lacks, as encrypted Pulumi configuration.

What is there stays as it is, so it may be run at any time; ``--renew KEY`` rotates one. Nothing secret is printed.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence

from outhaul.errors import OuthaulError
from outhaul_infra.passwords import NOT_RENEWED, PASSWORDS
from outhaul_infra.pulumi_cli import PulumiCli
from outhaul_infra.setting_fields import nearest

_RANDOM_BYTES = 24


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 2 a key that is none or cannot be renewed, 3 pulumi is missing or failed."""
    parser = argparse.ArgumentParser(prog="python -m outhaul_infra.secrets", description=__doc__)
    parser.add_argument("--stack", help="the stack's name; else the one selected")
    parser.add_argument(
        "--renew", action="append", default=[], metavar="KEY", help="make this one anew; may be repeated"
    )
    options = parser.parse_args(arguments)
    for key in options.renew:
        refused = nearest(key, PASSWORDS) if key not in PASSWORDS else NOT_RENEWED.get(key)
        if refused is not None:
            print(f"{key} {refused}", file=sys.stderr)  # noqa: T201 - a command prints
            return 2
    try:
        make(PulumiCli(options.stack), renew=frozenset(options.renew))
    except OuthaulError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command prints
        return 3
    return 0


def make(cli: PulumiCli, *, renew: frozenset[str]) -> None:
    """Write what is missing and what shall be renewed. Raises PulumiFailed."""
    there = cli.configuration()
    for key, what in PASSWORDS.items():
        if key in there and key not in renew:
            continue
        cli.set_secret(key, secrets.token_urlsafe(_RANDOM_BYTES))
        print(f"{'renewed' if key in there else 'made'} {key} ({what})")  # noqa: T201 - a command prints
    kept = len(there.keys() & PASSWORDS.keys() - renew)
    print(f"{kept} were there already. `pulumi up` brings what is new into the cluster.")  # noqa: T201 - a command prints


if __name__ == "__main__":
    raise SystemExit(main())

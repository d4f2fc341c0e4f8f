"""`python -m outhaul_infra.external postgres|rabbitmq`: what a server that is there already must be given.

Prints SQL for psql, or a definitions file for RabbitMQ (`rabbitmqctl import_definitions`), with the identities of the
stack. Passwords are in it as verifiers and hashes alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from outhaul.errors import ConfigurationError, OuthaulError
from outhaul_infra import names, passwords
from outhaul_infra.broker_definitions import definitions
from outhaul_infra.postgres_roles import roles_sql
from outhaul_infra.pulumi_cli import PulumiCli
from outhaul_infra.setting_fields import PROJECT


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 2 a password is missing, 3 pulumi is missing or failed."""
    parser = argparse.ArgumentParser(prog="python -m outhaul_infra.external", description=__doc__)
    parser.add_argument("server", choices=["postgres", "rabbitmq"])
    parser.add_argument("--stack", help="the stack's name; else the one selected")
    parser.add_argument("--virtual-host", default="/", help="RabbitMQ's, as in rabbitmq.virtualHost")
    options = parser.parse_args(arguments)
    try:
        given = PulumiCli(options.stack).configuration(show_secrets=True)
        print(  # noqa: T201 - a command prints
            postgres(given) if options.server == "postgres" else rabbitmq(given, virtual_host=options.virtual_host)
        )
    except OuthaulError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command prints
        return 2 if isinstance(error, ConfigurationError) else 3
    return 0


def postgres(given: Mapping[str, str | None]) -> str:
    """The script of databases and roles. Raises ConfigurationError for a missing password."""
    return roles_sql(
        {
            role: _password(given, passwords.database_password(function, kind))
            for function in names.FUNCTIONS
            for role, kind in names.roles(function)
        }
    )


def rabbitmq(given: Mapping[str, str | None], *, virtual_host: str) -> str:
    """The definitions of users and their rights. Raises ConfigurationError for a missing password."""
    whom = [who for who in passwords.BROKER_IDENTITIES if who != "admin"]
    return definitions(
        {who: _password(given, passwords.broker_password(who)) for who in whom}, virtual_host=virtual_host
    )


def _password(given: Mapping[str, str | None], key: str) -> str:
    found = given.get(key)
    if not found:
        raise ConfigurationError(f"{PROJECT}:{key}", None, "is not set; make it by: python -m outhaul_infra.secrets")
    return found


if __name__ == "__main__":
    raise SystemExit(main())

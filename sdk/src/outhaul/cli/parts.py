"""Which databases and broker a command works on, and connections to them, opened when first asked for.

One rule: the command's own option wins; then `--dsn` where the command takes one; then the generic variable
(`OUTHAUL_OUTBOX_DATABASE_URL`); then local mode's (`OUTHAUL_ORDER_DATABASE_URL`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import click
import psycopg

from outhaul.cli.exit_codes import USAGE
from outhaul.configuration.environment import Environment
from outhaul.errors import DatabaseUnreachable
from outhaul.settings import BrokerSettings, DatabaseSettings, ManagementSettings

_FALL_BACK: Final[Mapping[str, str]] = {
    "outbox": "OUTHAUL_ORDER_DATABASE_URL",
    "inbox": "OUTHAUL_WAYBILL_DATABASE_URL",
    "order": "OUTHAUL_OUTBOX_DATABASE_URL",
    "waybill": "OUTHAUL_INBOX_DATABASE_URL",
}

Connection = psycopg.Connection[Any]


class NotSaid(click.ClickException):
    """Something the command needs was not said; one paragraph, without the usage line, which would not help."""

    exit_code = USAGE

    def show(self, file: IO[Any] | None = None) -> None:  # noqa: ARG002 - click's signature
        """As every other error of this command."""
        click.echo(f"outhaul: {self.message}", err=True)


class MissingSetting(NotSaid):
    """A part the command needs was given neither by option nor by environment."""

    def __init__(self, what: str, option: str, names: tuple[str, ...]) -> None:
        text = f"{what} is not known: give {option}, or set {' or '.join(names)}."
        written = Path(os.environ.get("OUTHAUL_HOME") or ".outhaul") / "env"
        if written.exists():
            text += f" Local mode wrote it down: source {written}"
        super().__init__(text)


@dataclass(slots=True)
class Parts:
    """The parts one command was given. Connections are closed with the click context."""

    environ: Mapping[str, str]
    options: dict[str, str] = field(default_factory=dict)
    _open: dict[str, Connection] = field(default_factory=dict)
    _environment: Environment = field(init=False)

    def __post_init__(self) -> None:
        self._environment = Environment(self.environ)

    @property
    def environment(self) -> Environment:
        """The typed reader of the `OUTHAUL_` variables."""
        return self._environment

    def text(self, option: str, name: str) -> str | None:
        """A plain value by option or variable; None when neither is given."""
        return self.options.get(option) or self._environment.text_or_none(name)

    def database_settings_or_none(self, component: str) -> DatabaseSettings | None:
        """Where the component's tables are (`outbox`, `inbox`, or a function's name); None when not given."""
        for option in (f"{component}_dsn", "dsn"):
            if self.options.get(option):
                return DatabaseSettings.parse(self.options[option], setting=_flag(option))
        for name in _database_names(component):
            if self._environment.text_or_none(name):
                return self._environment.database(name)
        return None

    def database_settings(self, component: str) -> DatabaseSettings:
        """As above. Raises MissingSetting when it was not given."""
        found = self.database_settings_or_none(component)
        if found is None:
            option = f"--{component}-dsn" if component in {"outbox", "inbox"} else "--dsn"
            raise MissingSetting(f"the {component}'s database", option, _database_names(component))
        return found

    def database(self, component: str) -> Connection:
        """An autocommit connection. Raises MissingSetting, DatabaseUnreachable."""
        if component not in self._open:
            self._open[component] = connect(self.database_settings(component))
        return self._open[component]

    def database_or_none(self, component: str) -> Connection | None:
        """As above; None when the database was not given. One that was given and does not answer is an error."""
        return self.database(component) if self.database_settings_or_none(component) else None

    def broker_or_none(self) -> BrokerSettings | None:
        """The broker, by option or variable; None when not given."""
        if self.options.get("amqp_url"):
            return BrokerSettings.parse(self.options["amqp_url"], setting="--amqp-url")
        return self._environment.broker() if self._environment.text_or_none("OUTHAUL_AMQP_URL") else None

    def broker(self) -> BrokerSettings:
        """As above. Raises MissingSetting when it was not given."""
        found = self.broker_or_none()
        if found is None:
            raise MissingSetting("the broker", "--amqp-url", ("OUTHAUL_AMQP_URL",))
        return found

    def management_or_none(self) -> ManagementSettings | None:
        """The broker's management API, by option or variable; None when not given."""
        if self.options.get("management_url"):
            return ManagementSettings.parse(self.options["management_url"], setting="--management-url")
        return self._environment.management_or_none()

    def management(self) -> ManagementSettings:
        """As above. Raises MissingSetting when it was not given."""
        found = self.management_or_none()
        if found is None:
            raise MissingSetting("the management API", "--management-url", ("OUTHAUL_MANAGEMENT_URL",))
        return found

    def close(self) -> None:
        """Close what was opened."""
        while self._open:
            self._open.popitem()[1].close()


def connect(settings: DatabaseSettings) -> Connection:
    """An autocommit connection that works through pgbouncer. Raises DatabaseUnreachable."""
    try:
        return psycopg.connect(settings.conninfo(), autocommit=True, prepare_threshold=None)
    except psycopg.OperationalError as error:
        why = str(error).strip().partition("\n")[0].removeprefix("connection failed: ")
        raise DatabaseUnreachable(settings.address, why, f"check {settings.setting}") from error


def _database_names(component: str) -> tuple[str, ...]:
    own = f"OUTHAUL_{component.upper().replace('-', '_')}_DATABASE_URL"
    return (own, _FALL_BACK[component]) if component in _FALL_BACK else (own,)


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")

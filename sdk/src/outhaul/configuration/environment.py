"""The ``OUTHAUL_`` environment variables of a process, read once at its edge; the library itself reads none.

Defaults come from `outhaul.configuration.settings_table`. A value that cannot be used raises
ConfigurationError naming the variable; a name nobody knows is warned about with the nearest known one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from outhaul.configuration.durations import parse_duration
from outhaul.configuration.settings_table import SETTINGS
from outhaul.configuration.urls import nearest
from outhaul.errors import ConfigurationError
from outhaul.settings import BrokerSettings, DatabaseSettings, ManagementSettings

PREFIX = "OUTHAUL_"
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_DEFAULTS = {setting.name: setting.default for setting in SETTINGS}


class Environment:
    """A copy of a mapping such as ``os.environ``, with typed readers. An empty value counts as unset."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = {name: value for name, value in values.items() if name.startswith(PREFIX) and value.strip()}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(sorted(self._values))})"

    def text_or_none(self, name: str) -> str | None:
        """The variable's text, else its default from the table, else None."""
        return self._values.get(name) or _DEFAULTS.get(name)

    def text(self, name: str, default: str | None = None, *, choices: Iterable[str] = ()) -> str:
        """The variable's text; refused when it is missing, or not one of ``choices`` where there are any."""
        found = self._values.get(name) or default or _DEFAULTS.get(name)
        if found is None:
            raise ConfigurationError(name, "", "is not set and has no default; set it")
        allowed = tuple(choices)
        if allowed and found not in allowed:
            raise ConfigurationError(name, found[:80], f"write one of: {', '.join(allowed)}")
        return found

    def duration(
        self, name: str, default: str | None = None, *, least: float = 0.0, most: float = float("inf")
    ) -> float:
        """Seconds, written as a duration (``30s``); bounds are seconds, both included."""
        text = self.text(name, default)
        seconds = parse_duration(text, setting=name)
        if not least <= seconds <= most:
            raise ConfigurationError(name, text, f"must lie between {least:g}s and {most:g}s")
        return seconds

    def integer(self, name: str, default: int | None = None, *, least: int = 0, most: int = 2**31 - 1) -> int:
        """A whole number between the bounds, both included."""
        text = self.text(name, None if default is None else str(default)).strip()
        # int() would also take 1_000 and digits of other scripts; sizes beyond the bounds are cut before int().
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 19 and least <= int(text) <= most):
            raise ConfigurationError(name, text[:80], f"write a whole number from {least} to {most}")
        return int(text)

    def flag(self, name: str, *, default: bool | None = None) -> bool:
        """Yes or no: 1/true/yes/on or 0/false/no/off."""
        text = self.text(name, None if default is None else str(default).lower())
        word = text.strip().lower()
        if word not in _TRUE | _FALSE:
            raise ConfigurationError(name, text[:80], "write true or false")
        return word in _TRUE

    def broker(self, name: str = "OUTHAUL_AMQP_URL") -> BrokerSettings:
        """RabbitMQ by that URL and the ``_PASSWORD_FILE``, ``_CA_FILE``, ``_CERT_FILE``, ``_KEY_FILE`` beside it."""
        return BrokerSettings.parse(self.text_or_none(name) or "", setting=name, **self._files(name))

    def management(self, name: str = "OUTHAUL_MANAGEMENT_URL") -> ManagementSettings:
        """The management API by that URL and the files beside it, as for `broker`."""
        return ManagementSettings.parse(self.text_or_none(name) or "", setting=name, **self._files(name))

    def management_or_none(self, name: str = "OUTHAUL_MANAGEMENT_URL") -> ManagementSettings | None:
        """As `management`; None when the URL is not set."""
        return self.management(name) if self.text_or_none(name) else None

    def database(self, name: str) -> DatabaseSettings:
        """PostgreSQL by that DSN and the ``_PASSWORD_FILE`` beside it."""
        password_file = self.text_or_none(name.removesuffix("_URL") + "_PASSWORD_FILE")
        return DatabaseSettings.parse(self.text_or_none(name) or "", setting=name, password_file=password_file)

    def warn_unknown(self, known: Iterable[str] | None = None) -> list[str]:
        """A sentence for each variable nobody reads, with the nearest known name; to be logged at start."""
        names = frozenset(_DEFAULTS if known is None else known)
        sentences = []
        for name in sorted(set(self._values) - names):
            # Compared without the prefix all share, which would make anything look near to anything.
            near = nearest(name.removeprefix(PREFIX), [known_name.removeprefix(PREFIX) for known_name in names])
            meant = f"; did you mean {PREFIX}{near}?" if near else ""
            sentences.append(f"{name} is set and nothing reads it{meant}")
        return sentences

    def _files(self, name: str) -> dict[str, str | None]:
        stem = name.removesuffix("_URL")
        return {
            file: self.text_or_none(f"{stem}_{file.upper()}")
            for file in ("password_file", "ca_file", "cert_file", "key_file")
        }

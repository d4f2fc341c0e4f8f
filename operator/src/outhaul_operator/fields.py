"""Read the fields of a custom resource: typed, bounded, and refused by their full path.

The API server has refused nonsense at admission already. This is for the objects that were stored before a bound was
there, and for a cluster whose resource definitions are older or newer than the operator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from outhaul.configuration.durations import format_duration, parse_duration
from outhaul.errors import ConfigurationError

_NAME_CHARACTERS = 253
_LONGEST_SECONDS = 10_000 * 86_400.0


@dataclass(frozen=True, slots=True)
class Fields:
    """One object of a resource, found at ``path`` (``spec.resend``). Every method raises ConfigurationError."""

    path: str
    values: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, body: Mapping[str, Any], name: str) -> Fields:
        """The object at ``name`` of a resource's body; empty where it is absent."""
        return cls("", body).part(name)

    def has(self, name: str) -> bool:
        """Whether the field is given; null is not."""
        return self.values.get(name) is not None

    def part(self, name: str) -> Fields:
        """The object in the field ``name``; empty where it is absent."""
        value = self.values.get(name)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise self._wrong(name, value, "must be an object")
        return Fields(f"{self.path}.{name}".lstrip("."), value)

    def text(self, name: str, default: str | None = None, *, most: int = _NAME_CHARACTERS) -> str:
        """A text of 1 to ``most`` characters. Without a ``default`` it must be given."""
        value = self.values.get(name)
        if value is None:
            value = default
        if not isinstance(value, str) or not 1 <= len(value) <= most:
            raise self._wrong(name, value, f"must be a text of 1 to {most} characters")
        return value

    def texts(self, name: str, *, most: int = 100) -> tuple[str, ...]:
        """A list of at most ``most`` texts; empty where it is absent."""
        values = self._list(name, most)
        if not all(isinstance(value, str) and value for value in values):
            raise self._wrong(name, values, "must be a list of texts, none of them empty")
        return tuple(values)

    def ids(self, name: str, *, most: int) -> tuple[UUID, ...]:
        """A list of at most ``most`` message ids; empty where it is absent."""
        found = []
        for value in self._list(name, most):
            try:
                found.append(UUID(value))
            except (ValueError, TypeError, AttributeError) as error:
                way_out = "must be message ids such as 0193a1b2-7c4d-7e10-9f00-0123456789ab"
                raise self._wrong(name, value, way_out) from error
        return tuple(found)

    def number(self, name: str, default: int, *, least: int, most: int) -> int:
        """A whole number in the bounds."""
        value = self.values.get(name)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self._wrong(name, value, f"must be a whole number from {least} to {most}")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(name, value, "must be true or false")
        return value

    def seconds(self, name: str, default: str, *, least: float = 0.001, most: float = _LONGEST_SECONDS) -> float:
        """A duration as people write it (``30s``, ``5m``), in seconds."""
        found = self.seconds_or_none(name, least=least, most=most)
        return parse_duration(default) if found is None else found

    def seconds_or_none(self, name: str, *, least: float = 0.001, most: float = _LONGEST_SECONDS) -> float | None:
        """As `seconds`; None where it is absent."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self._wrong(name, value, "write a number with its unit, such as 30s, 5m, 1h or 7d")
        seconds = parse_duration(value, setting=self._path(name))
        if not least <= seconds <= most:
            raise self._wrong(name, value, f"must be from {format_duration(least)} to {format_duration(most)}")
        return seconds

    def instant(self, name: str) -> datetime:
        """An instant with its time zone (RFC 3339)."""
        value = self.values.get(name)
        try:
            found = datetime.fromisoformat(value) if isinstance(value, str) else None
        except ValueError:
            found = None
        if found is None or found.tzinfo is None:
            raise self._wrong(name, value, "must be an instant with its time zone, such as 2026-01-31T10:00:00Z")
        return found

    def refuse(self, name: str, remedy: str) -> ConfigurationError:
        """The error for what the field ``name`` holds."""
        return self._wrong(name, self.values.get(name), remedy)

    def _list(self, name: str, most: int) -> Sequence[Any]:
        value = self.values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > most:
            raise self._wrong(name, value, f"must be a list of at most {most}")
        return value

    def _wrong(self, name: str, value: object, remedy: str) -> ConfigurationError:
        return ConfigurationError(self._path(name), value, remedy)

    def _path(self, name: str) -> str:
        return f"{self.path}.{name}".lstrip(".")

"""What a setting of the stack is: its form, its default, its meaning; and how a written value becomes a checked one.

The dataclasses of `outhaul_infra.settings` carry these as field metadata, so that reading, refusing and the reference
page have one source.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, TypeVar

from outhaul.errors import ConfigurationError

PROJECT: Final = "outhaul"

# Kubernetes, "Object Names and IDs": a label of RFC 1123.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
# The forms of apimachinery's resource.Quantity that people write; exponents are left out.
_QUANTITY = re.compile(r"(\d{1,9})(\.\d{1,3})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_SUFFIXES: Final[Mapping[str, float]] = {
    "": 1,
    "m": 0.001,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_HOST = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9.]{0,251}[A-Za-z0-9])?")
_IMAGE = re.compile(r"[a-z0-9][-a-z0-9._/:@]{0,254}", re.IGNORECASE)

Check = Callable[[str, Any], Any]
Section = TypeVar("Section")


@dataclass(frozen=True, slots=True)
class Setting:
    """``form`` and ``meaning`` are for people; ``check`` takes the setting's name and the written value."""

    form: str
    meaning: str
    check: Check


def setting_of(metadata: Mapping[str, Any]) -> Setting:
    """The Setting in a dataclass field's metadata."""
    found = metadata["setting"]
    assert isinstance(found, Setting)
    return found


def camel(name: str) -> str:
    """``storage_class`` -> ``storageClass``: Python's spelling and that of Pulumi's and Kubernetes' YAML."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def quantity_value(text: str) -> float:
    """What a checked quantity is worth, in its base unit (bytes, cores)."""
    match = _QUANTITY.fullmatch(text)
    assert match, text
    return float(match[1] + (match[2] or "")) * _SUFFIXES[match[3] or ""]


def _setting(default: Any, form: str, meaning: str, check: Check) -> Any:
    metadata = {"setting": Setting(form, meaning, check)}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def choice(options: tuple[str, ...], meaning: str, *, default: str | None = None) -> Any:
    """One of a few words; None as default means that it may be left out."""

    def check(name: str, value: Any) -> str:
        if value not in options:
            near = difflib.get_close_matches(str(value), options, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigurationError(name, value, f"write {', '.join(options[:-1])} or {options[-1]}{hint}")
        return str(value)

    return _setting(default, " or ".join(f"`{option}`" for option in options), meaning, check)


def flag(default: bool, meaning: str) -> Any:
    """True or false; a quoted word is refused, because "false" in quotes would count as true elsewhere."""

    def check(name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ConfigurationError(name, value, "write true or false, without quotes")
        return value

    return _setting(default, "true or false", meaning, check)


def whole(default: int, meaning: str, *, least: int, most: int) -> Any:
    """A whole number within bounds."""
    return _setting(default, f"whole number, {least} to {most}", meaning, _within(least, most))


def _within(least: int, most: int) -> Check:
    def check(name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ConfigurationError(name, value, f"write a whole number from {least} to {most}")
        return value

    return check


def whole_or_none(meaning: str, *, least: int, most: int) -> Any:
    """A whole number within bounds that may be left out."""
    return _setting(None, f"whole number, {least} to {most}", meaning, _within(least, most))


def port_or_none(meaning: str) -> Any:
    """A port that may be left out."""

    def check(name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
            raise ConfigurationError(name, value, "write a port, 1 to 65535")
        return value

    return _setting(None, "port", meaning, check)


def _matching(pattern: re.Pattern[str], remedy: str) -> Check:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ConfigurationError(name, value, remedy)
        return value

    return check


def kube_name(default: str | None, meaning: str) -> Any:
    """A name of Kubernetes."""
    remedy = "write lower-case letters, digits and hyphens, 63 at most"
    return _setting(default, "name", meaning, _matching(_NAME, remedy))


def quantity(default: str, meaning: str) -> Any:
    """An amount as Kubernetes writes it, above nothing."""

    def check(name: str, value: Any) -> str:
        text = str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
        if not isinstance(text, str) or not _QUANTITY.fullmatch(text) or quantity_value(text) <= 0:
            raise ConfigurationError(name, value, "write an amount with its unit, such as 500m, 2, 512Mi or 10Gi")
        return text

    return _setting(default, "amount", meaning, check)


def image(default: str, meaning: str) -> Any:
    """A container image."""
    remedy = "write an image as repository:tag or repository@digest"
    return _setting(default, "image", meaning, _matching(_IMAGE, remedy))


def host(meaning: str) -> Any:
    """A host name or address without scheme and port."""
    remedy = "write a host name or address alone, without scheme, port and path"
    return _setting(None, "host", meaning, _matching(_HOST, remedy))


def text(default: str | None, meaning: str, *, form: str = "text", pattern: str = r".+", remedy: str) -> Any:
    """One line of text."""
    return _setting(default, form, meaning, _matching(re.compile(pattern), remedy))


def mapping(meaning: str, *, form: str = "mapping") -> Any:
    """Keys and values that go through as they are."""

    def check(name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or not all(isinstance(key, str) and key for key in value):
            raise ConfigurationError(name, value, "write keys and values (a mapping)")
        return value

    return _setting(dict, form, meaning, check)


def nearest(unknown: str, known: Iterable[str]) -> str:
    """The way out for a name that is read by nothing."""
    names = sorted(known)
    near = difflib.get_close_matches(unknown, names, n=1, cutoff=0.5)
    return f"is no setting; did you mean {near[0]}?" if near else f"is no setting; there are: {', '.join(names)}"


def read_section(kind: type[Section], path: str, written: Any) -> Section:
    """A section's dataclass from the mapping a person wrote; what is left out takes its default.

    Raises ConfigurationError naming ``path`` and key for what cannot be used, unknown keys included.
    """
    if not isinstance(written, Mapping):
        raise ConfigurationError(path, written, "write keys and values below it (a mapping)")
    known = {camel(each.name): each for each in fields(kind)}  # type: ignore[arg-type] # every section is a dataclass
    for key in written:
        if key not in known:
            raise ConfigurationError(f"{path}.{key}", written[key], nearest(str(key), known))
    values: dict[str, Any] = {}
    for key, each in known.items():
        if key in written and written[key] is not None:
            values[each.name] = setting_of(each.metadata).check(f"{path}.{key}", written[key])
        elif each.default is MISSING and each.default_factory is MISSING:
            raise ConfigurationError(f"{path}.{key}", None, f"must be set: {setting_of(each.metadata).meaning}")
    return kind(**values)

"""A topology by name: an import path, an installed distribution's entry point, or a TOML or JSON file.

A file describes consumers as a person would say them::

    [[consumers]]
    queue = "shop.waybill"
    bindings = [{exchange = "shop.events", routing_key = "order.created"}]
    retry_delays = ["5s", "30s", "5m"]      # these and what follows may be left out
    max_length = 1000000
    delivery_limit = 1000
    consumer_timeout = "30m"

    [[exchanges]]                           # for a producer whose consumers are declared elsewhere
    name = "shop.events"
    kind = "topic"
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from outhaul.configuration.durations import parse_duration
from outhaul.configuration.urls import nearest
from outhaul.errors import ConfigurationError
from outhaul.topology import Exchange, ExchangeKind, Topology, consumer_topology, merged

GROUP = "outhaul.topologies"
_FILE_BYTES = 1024 * 1024
_WAY_OUT = "write module:ATTRIBUTE, the name of an entry point, or a .toml or .json file"
_CONSUMER = {
    "queue": str,
    "bindings": list,
    "retry_delays": list,
    "max_length": int,
    "delivery_limit": int,
    "consumer_timeout": str,
    "exchange_kind": str,
    "dlx": str,
    "retry_exchange": str,
    "policy_priority": int,
}


def load_topology(source: str | None = None, *, setting: str = "topology") -> Topology:
    """The topology that ``source`` names; without one, those of all installed distributions together.

    Raises ConfigurationError naming ``setting`` and the way out.
    """
    if source is None:
        topologies = [_from_entry_point(entry, setting) for entry in _entry_points()]
        if not topologies:
            raise ConfigurationError(setting, "", f"no installed package brings a topology; {_WAY_OUT}")
        return merged(topologies)
    if source.endswith((".toml", ".json")):
        return _from_file(Path(source), setting)
    if ":" in source:
        return _from_import_path(source, setting)
    entries = {entry.name: entry for entry in _entry_points()}
    if source in entries:
        return _from_entry_point(entries[source], setting)
    known = f"installed: {', '.join(sorted(entries))}" if entries else "none is installed"
    raise ConfigurationError(setting, source, f"no such entry point in {GROUP} ({known}); {_WAY_OUT}")


def topology_from(description: Any, *, setting: str = "topology") -> Topology:
    """A topology from what a file holds: ``{"consumers": [...], "exchanges": [...]}``. Raises ConfigurationError."""
    tables = _table(description, {"consumers": list, "exchanges": list}, setting)
    consumers = [
        _consumer(_table(entry, _CONSUMER, f"{setting} consumers[{index}]"), f"{setting} consumers[{index}]")
        for index, entry in enumerate(tables.get("consumers", ()))
    ]
    exchanges = []
    for index, entry in enumerate(tables.get("exchanges", ())):
        where = f"{setting} exchanges[{index}]"
        table = _table(entry, {"name": str, "kind": str}, where)
        kind = cast("ExchangeKind", table.get("kind", "topic"))
        exchanges.append(Exchange(_required(table, "name", where), kind))
    if not consumers and not exchanges:
        raise ConfigurationError(setting, "", "describes nothing; add [[consumers]] or [[exchanges]]")
    return merged([*consumers, Topology(exchanges=frozenset(exchanges))])


def _consumer(table: dict[str, Any], where: str) -> Topology:
    bindings = []
    for index, entry in enumerate(_required(table, "bindings", where)):
        binding = _table(entry, {"exchange": str, "routing_key": str}, f"{where} bindings[{index}]")
        bindings.append((_required(binding, "exchange", where), _required(binding, "routing_key", where)))
    options: dict[str, Any] = {
        name: table[name]
        for name in ("max_length", "delivery_limit", "exchange_kind", "dlx", "retry_exchange", "policy_priority")
        if name in table
    }
    if "retry_delays" in table:
        options["retry_delays_seconds"] = tuple(
            parse_duration(str(delay), setting=f"{where} retry_delays") for delay in table["retry_delays"]
        )
    if "consumer_timeout" in table:
        options["consumer_timeout_seconds"] = parse_duration(
            table["consumer_timeout"], setting=f"{where} consumer_timeout"
        )
    return consumer_topology(_required(table, "queue", where), bindings, **options)


def _required(table: dict[str, Any], name: str, where: str) -> Any:
    if name not in table:
        raise ConfigurationError(f"{where} {name}", "", "is missing")
    return table[name]


def _table(value: Any, fields: dict[str, type], where: str) -> dict[str, Any]:
    """The value as a table with these fields and no other."""
    if not isinstance(value, dict):
        raise ConfigurationError(where, str(value)[:80], f"must be a table with {', '.join(fields)}")
    for name, item in value.items():
        if name not in fields:
            near = nearest(str(name), fields)
            raise ConfigurationError(
                f"{where} {name}", str(item)[:80], f"is not known; {f'did you mean {near}?' if near else 'remove it'}"
            )
        # bool is an int to Python and a mistake here.
        if not isinstance(item, fields[name]) or isinstance(item, bool):
            raise ConfigurationError(f"{where} {name}", str(item)[:80], f"must be a {fields[name].__name__}")
    return value


def _from_file(path: Path, setting: str) -> Topology:
    try:
        if path.stat().st_size > _FILE_BYTES:
            raise ConfigurationError(setting, str(path), f"is larger than {_FILE_BYTES} bytes; is it the right file?")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigurationError(setting, str(path), f"cannot be read: {error}") from error
    try:
        description = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(setting, str(path), f"is no {path.suffix[1:].upper()}: {error}") from error
    return topology_from(description, setting=f"{setting} {path.name}")


def _from_import_path(source: str, setting: str) -> Topology:
    module, _, attribute = source.partition(":")
    here = os.getcwd()  # noqa: PTH109 - sys.path holds text
    # A command's own folder stands first on sys.path, not the one it is called in, which is where users' modules are.
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(setting, source, f"cannot be imported: {error}; {_WAY_OUT}") from error
    finally:
        if here in sys.path:
            sys.path.remove(here)
    return _checked(found, source, setting)


def _from_entry_point(entry: metadata.EntryPoint, setting: str) -> Topology:
    try:
        found = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            setting, entry.name, f"the entry point {entry.value} cannot be imported: {error}; reinstall its package"
        ) from error
    return _checked(found, entry.name, setting)


def _checked(found: Any, source: str, setting: str) -> Topology:
    topology = found() if callable(found) else found
    if not isinstance(topology, Topology):
        raise ConfigurationError(setting, source, f"is a {type(topology).__name__}, not an outhaul.topology.Topology")
    return topology


def _entry_points() -> list[metadata.EntryPoint]:
    return sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name)

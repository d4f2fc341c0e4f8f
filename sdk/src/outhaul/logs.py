"""Logs as one JSON object a line, for our own processes; the library itself configures no logging.

What a logger is given is kept short by those who call it (ids, counts, names; never payloads); this module makes sure
that no address in it carries credentials.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

from outhaul.configuration.redaction import HIDDEN, redact
from outhaul.errors import ConfigurationError

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("json", "text")
# What the logging module itself puts into a record; the rest came with `extra=`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


def configure_logging(level: str = "info", form: str = "json", stream: TextIO | None = None) -> None:
    """Send every logger of this process to ``stream`` (standard error). Called by a program, never on import.

    Raises ConfigurationError for an unknown level or form.
    """
    if level not in LEVELS:
        raise ConfigurationError("log level", level, f"write one of: {', '.join(LEVELS)}")
    if form not in FORMATS:
        raise ConfigurationError("log format", form, f"write one of: {', '.join(FORMATS)}")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # pika logs every refused attempt several times with its traceback; Outhaul logs each outage itself, once.
    logging.getLogger("pika").setLevel(logging.CRITICAL)


class JsonFormatter(logging.Formatter):
    """``{"time", "level", "logger", "message", ...extra, "error"}`` on one line, credentials hidden."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the record holds: what JSON cannot carry is shown as text."""
        event: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            event["error"] = {
                "type": type(error).__name__,
                "message": str(error),
                "stack": "".join(traceback.format_exception(error)),
            }
        return json.dumps(_clean(event), ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """``14:03:07.512 warning outhaul.sender  text  name=value``, for people at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """One event; its traceback follows on lines of its own."""
        extra = "".join(f"  {name}={value}" for name, value in vars(record).items() if name not in _STANDARD)
        text = f"{_time(record)[11:23]} {record.levelname.lower()} {record.name}  {record.getMessage()}{extra}"
        if record.exc_info and record.exc_info[1] is not None:
            text += "\n" + "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        return _without_credentials(text)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _clean(value: object) -> object:
    """The value as JSON can carry it, no text in it with credentials; by value, as JSON's escapes hide them."""
    if isinstance(value, bool | int | None):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping):
        return {
            str(name): HIDDEN if str(name).lower().endswith("password") else _clean(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
    return _without_credentials(value if isinstance(value, str) else str(value))


def _without_credentials(text: str) -> str:
    return redact(text) if "://" in text or "=" in text or ":" in text else text

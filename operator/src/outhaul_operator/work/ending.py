"""How a run ends: an exit code for Kubernetes, and a report in the pod's termination message for the operator."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psycopg

from outhaul.configuration.redaction import redact
from outhaul.errors import BrokerUnreachable, ConfigurationError, DatabaseUnreachable, SchemaError, TopologyError
from outhaul_operator import outcomes, requests, troubles
from outhaul_operator.outcomes import RunReport
from outhaul_operator.snapshot import Trouble
from outhaul_operator.work.stopping import Stopped

_log = logging.getLogger("outhaul.work")

DEFECT: Final = 70
"""An error nobody foresaw; tried again like an outage."""
# What Kubernetes keeps of it.
_MOST_BYTES: Final = 4096
_CODES: Final = {
    "SchemaMissing": outcomes.SCHEMA_MISSING,
    "CredentialsRefused": outcomes.REFUSED,
    "PermissionDenied": outcomes.REFUSED,
    "DatabaseMissing": outcomes.REFUSED,
    "ReadOnly": outcomes.READ_ONLY,
}
_ADDRESSES: Final = (requests.DATABASE_VARIABLE, requests.BROKER_VARIABLE)


@dataclass(frozen=True, slots=True)
class Ending:
    """The exit code (see `outhaul_operator.outcomes`) and what is told."""

    code: int
    report: RunReport


def of_trouble(trouble: Trouble) -> Ending:
    """Database or broker would not."""
    code = _CODES.get(trouble.reason, outcomes.OUTAGE)
    return Ending(code, RunReport(reason=trouble.reason, message=trouble.message))


def of_error(error: Exception, address: str = "") -> Ending:
    """What ended the work, by its kind. ``address`` is the database's, for errors that do not name it."""
    match error:
        case Stopped():
            message = "it was stopped; what was done is on record, and it goes on when started again"
            return Ending(outcomes.OUTAGE, RunReport(reason="Stopped", message=message))
        case ConfigurationError():
            reason = "SecretInvalid" if error.setting.startswith(_ADDRESSES) else "BadRequest"
            return Ending(outcomes.BAD_REQUEST, RunReport(reason=reason, message=str(error)))
        case TopologyError():
            return Ending(outcomes.NOT_TAKEN, RunReport(reason="TopologyMissing", message=str(error)))
        case BrokerUnreachable():
            return of_trouble(troubles.of_broker(error))
        case DatabaseUnreachable() | SchemaError() | psycopg.Error():
            return of_trouble(troubles.of_database(error, getattr(error, "address", address)))
        case _:
            message = redact(f"{type(error).__name__}: {error}")
            return Ending(DEFECT, RunReport(reason="Defect", message=message))


def write(report: RunReport, path: str) -> None:
    """Leave the report where the kubelet takes it from; nobody is there to be told when it cannot be written."""
    content = json.dumps(report.document()).encode()
    if len(content) > _MOST_BYTES:  # quotes and escapes count twice in JSON
        content = json.dumps(replace(report, message=report.message[:500]).document()).encode()
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        _log.warning("the report could not be written to %s: %s", path, error.strerror)

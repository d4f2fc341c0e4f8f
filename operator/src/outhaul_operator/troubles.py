"""What drivers and the SDK raise, as a `Trouble`: a stable reason, and cause and remedy in words. Pure.

No text changes from one attempt to the next, and none holds a password: addresses are shown without credentials, and
of a server's answer only its own words are.
"""

from __future__ import annotations

import re
from typing import Final

import psycopg
from pika.exceptions import ChannelClosedByBroker

from outhaul.configuration.redaction import redact
from outhaul.errors import ConfigurationError, DatabaseUnreachable, SchemaError, TopologyError, Unreachable
from outhaul_operator.snapshot import Trouble

# By SQLSTATE, or its class where only two characters are given: reason and remedy.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_BY_STATE: Final[dict[str, tuple[str, str]]] = {
    "28": ("CredentialsRefused", "check user and password in the Secret, and the server's pg_hba.conf"),
    "3D000": ("DatabaseMissing", "check the database's name in the Secret, or create it"),
    "3F000": ("SchemaMissing", "run `outhaul schema apply`, or check that it is the right database"),
    "42P01": ("SchemaMissing", "run `outhaul schema apply`, or check that it is the right database"),
    "42703": ("SchemaMissing", "run `outhaul schema apply` of this release"),
    "42883": ("SchemaMissing", "run `outhaul schema apply` of this release"),
    "42501": ("PermissionDenied", "run `outhaul schema grant --as operator` for this role"),
    "25006": ("ReadOnly", "point the Secret at the primary"),
    "53300": ("TooManyConnections", "raise max_connections or the role's CONNECTION LIMIT, or close some"),
    "53": ("OutOfResources", "give the server disk or memory"),
    "55P03": ("Locked", "end the transaction that holds the lock"),
    "57014": ("TimedOut", "look for locks and load on the server"),
    "57": ("Unreachable", "wait until the server is up again"),
    "08": ("Unreachable", "check host and port in the Secret, and that the server is up"),
}

# libpq tells no SQLSTATE of a connection it could not make, only the server's words.
_BY_WORDS: Final[tuple[tuple[str, str], ...]] = (
    ("password authentication failed", "28"),
    ("no password supplied", "28"),
    ("pg_hba.conf", "28"),
    ("role .* does not exist", "28"),
    ("not permitted to log in", "28"),
    ("certificate authentication failed", "28"),
    ("server login has been failing", "28"),  # pgbouncer
    ("permission denied for database", "42501"),
    ("database .* does not exist", "3D000"),
    ("no such database", "3D000"),  # pgbouncer
    ("too many (clients|connections)", "53300"),
    ("remaining connection slots", "53300"),
    ("the database system is", "57"),
    ("terminating connection", "57"),
    ("read-only", "25006"),
)
_NETWORK: Final[tuple[tuple[str, str, str], ...]] = (
    ("could not translate host name|failed to resolve host", "the host name is unknown", "check it in the Secret"),
    ("Connection refused", "connection refused", "check host and port in the Secret, and that the server is up"),
    ("certificate", "its certificate is refused", "check sslrootcert, sslmode and the host name in the Secret"),
    ("SSL", "TLS failed", "check sslmode in the Secret"),
)
_WORDS = re.compile(r"(?:FATAL|ERROR):\s*(?P<words>[^\n]+)")


def secret_invalid(error: ConfigurationError) -> Trouble:
    """An address in a Secret that cannot be used. Its value is not shown, not even redacted."""
    return Trouble("SecretInvalid", f"the Secret's {error.setting}: {error.remedy}")


def file_named(setting: str) -> Trouble:
    """An address that would have this process read or write a file of its own."""
    message = f"the Secret's {setting}: names a file of the operator's; write the password into the URL"
    return Trouble("SecretInvalid", message)


def timed_out(what: str, address: str, seconds: float) -> Trouble:
    """No answer within the look's deadline."""
    remedy = "look for a firewall that drops packets, for locks, or for a server under load"
    return Trouble("TimedOut", f"{what} at {address}: no answer within {seconds:g} s; {remedy}")


def of_database(error: BaseException, address: str) -> Trouble:
    """What a database did to a connection or a statement."""
    if isinstance(error, SchemaError):
        return Trouble("SchemaMissing", f"database at {address}: {error}")
    if isinstance(error, DatabaseUnreachable) and error.__cause__ is not None:
        error = error.__cause__
    text = str(error)
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    found = _WORDS.search(text)
    words = found["words"] if found else (text.partition("\n")[0] if state else "")
    if state is None:
        state = next((code for pattern, code in _BY_WORDS if re.search(pattern, words or text)), None)
    if state is not None:
        reason, remedy = _BY_STATE.get(state) or _BY_STATE.get(state[:2]) or ("Refused", "")
        said = redact(words.strip()) or reason
        return Trouble(reason, _sentence(f"database at {address}: {said}", remedy))
    for pattern, why, remedy in _NETWORK:
        if re.search(pattern, text):
            return Trouble("Unreachable", _sentence(f"database at {address}: {why}", remedy))
    why = "no answer" if "timeout" in text.lower() or "timed out" in text.lower() else "the connection was lost"
    return Trouble("Unreachable", _sentence(f"database at {address}: {why}", "check the network and the server"))


def of_broker(error: BaseException) -> Trouble:
    """What a broker, or its management API, did."""
    if isinstance(error, Unreachable) and isinstance(error.__cause__, ChannelClosedByBroker) and error.refused:
        return Trouble("PermissionDenied", str(error))
    if isinstance(error, Unreachable):
        return Trouble("CredentialsRefused" if error.refused else "Unreachable", str(error))
    if isinstance(error, TopologyError):
        return Trouble("PermissionDenied", str(error))
    return Trouble("Unreachable", f"broker: {redact(str(error)) or type(error).__name__}")


def _sentence(cause: str, remedy: str) -> str:
    return f"{cause}; {remedy}" if remedy else cause

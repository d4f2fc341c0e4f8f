"""No password leaves through a message, a log line or a repr: addresses are shown without credentials.

These functions take text that may be malformed, which is exactly when it gets shown to people. They never
parse and put together again: a password holding ``/``, ``?``, ``#`` or ``@`` parses into wrong parts.
"""

from __future__ import annotations

import re

HIDDEN = "***"
# Both end at a space and nowhere earlier: hiding a bracket too many is better than showing half a password.
_URL = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]*://\S*")
_KEY_VALUE = re.compile(
    r"""(?i)((?:password|passwd|pwd)(?:\s*=\s*|['"]\s*:\s*))('(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?|\S+)"""
)


def redact(text: str) -> str:
    """Text with the credentials of every URL, the query of every URL and every ``password=`` hidden."""
    return _KEY_VALUE.sub(rf"\1{HIDDEN}", _URL.sub(lambda found: redact_url(found[0]), text))


def redact_url(url: str) -> str:
    """A URL without its credentials and query.

    Whatever stands before the *last* ``@`` counts as credentials. Without any ``@``, a port that is
    no number may be a password whose host is missing, so it is hidden as well.

    >>> redact_url("amqp://shop:p/ss@broker:5672/%2F?heartbeat=5")
    'amqp://***@broker:5672/%2F'
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return HIDDEN
    credentials, at, address = rest.rpartition("@")
    address = address.partition("?")[0]
    if not at:
        host_and_port, slash, path = address.partition("/")
        host, colon, port = host_and_port.rpartition(":")
        if colon and not port.isdigit() and not host_and_port.endswith("]"):
            address = f"{host}:{HIDDEN}{slash}{path}"
    hidden = f"{HIDDEN}@" if credentials or at else ""
    return f"{scheme}://{hidden}{address}"

"""Settings somebody exported in the shell, to be used in place of our own servers.

A shell that sourced ``.outhaul/env`` exports our own URLs, perhaps of an earlier installation. So every URL ever
written there is remembered by its digest, and one of those is not taken for somebody else's server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from outhaul.configuration.environment import Environment
from outhaul.settings import require_loopback
from outhaul_local.home import Home, write_private
from outhaul_local.state import FUNCTIONS, External

ALLOW_FLAG = "--allow-remote (make up ALLOW_REMOTE=1)"
AMQP, MANAGEMENT, ALERTS = "OUTHAUL_AMQP_URL", "OUTHAUL_MANAGEMENT_URL", "OUTHAUL_ALERT_WEBHOOK_URL"


def database_setting(function: str) -> str:
    """The name of the variable that holds a function's database."""
    return f"OUTHAUL_{function.upper()}_DATABASE_URL"


def read_exported(variables: Mapping[str, str], home: Home, *, allow_remote: bool) -> External:
    """What of ``variables`` is to be used instead of our own.

    Raises ConfigurationError for a URL that cannot be read, or one that is not on this machine without
    ``allow_remote``: a forgotten export must not declare topology on a broker in production.
    """
    ours = issued(home)
    foreign = {name: value for name, value in variables.items() if _digest(value) not in ours}
    environment = Environment(foreign)
    found = External(alert_webhook_url=environment.text_or_none(ALERTS))
    if environment.text_or_none(AMQP):
        broker = environment.broker(AMQP)
        require_loopback(broker, allowed=allow_remote, flag=ALLOW_FLAG)
        found.amqp_url = environment.text(AMQP)
        found.management_url = environment.text_or_none(MANAGEMENT) or guess_management_url(found.amqp_url)
        management = Environment({MANAGEMENT: found.management_url}).management(MANAGEMENT)
        require_loopback(management, allowed=allow_remote, flag=ALLOW_FLAG)
    for function in FUNCTIONS:
        name = database_setting(function)
        if environment.text_or_none(name):
            require_loopback(environment.database(name), allowed=allow_remote, flag=ALLOW_FLAG)
            found.databases[function] = environment.text(name)
    return found


def guess_management_url(amqp_url: str) -> str:
    """The management API on its usual port of the same host, with the same credentials."""
    parts = urlsplit(amqp_url)
    secure = parts.scheme == "amqps"
    credentials, _, _ = parts.netloc.rpartition("@")
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    location = f"{credentials or quote('guest') + ':guest'}@{host}:{15671 if secure else 15672}"
    return urlunsplit(("https" if secure else "http", location, "", "", ""))


def issued(home: Home) -> frozenset[str]:
    """Digests of every URL that was ever written to the file to source."""
    try:
        return frozenset(_issued_file(home).read_text().split())
    except FileNotFoundError:
        return frozenset()


def remember_issued(home: Home, urls: Iterable[str]) -> None:
    """Add to them."""
    write_private(_issued_file(home), "\n".join(sorted(issued(home) | {_digest(url) for url in urls})) + "\n")


def _issued_file(home: Home) -> Path:
    return home.folder / "issued"


def _digest(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()

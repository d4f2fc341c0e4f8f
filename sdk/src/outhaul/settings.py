"""Where the broker, its management API and the databases are, and how to prove who we are to them.

Each is parsed once from a URL and refused early, with the setting's name and the way out. No repr, str or
message shows a password. A password file is read again at every connection, so that a rotated password needs no
restart. What a process takes from its environment is read by `outhaul.configuration.environment`.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote, urlsplit

from outhaul.configuration.durations import parse_duration
from outhaul.configuration.redaction import redact_url
from outhaul.configuration.secret import Secret
from outhaul.configuration.tls import Tls
from outhaul.configuration.urls import ESCAPES, TLS_PARAMETERS, bracketed, query_of, secret_of, split_url, tls_of
from outhaul.errors import ConfigurationError

# The specification of AMQP URIs leaves a URL without one to the client; pika and most others take the default.
# https://www.rabbitmq.com/docs/uri-spec
DEFAULT_VIRTUAL_HOST = "/"
_AMQP_WAY_OUT = "write amqp://user:password@host:5672/vhost (amqps:// for TLS, %2F for the vhost /)"
_AMQP_PARAMETERS = (
    "heartbeat",
    "connect_timeout",
    "blocked_timeout",
    "auth_mechanism",
    "password_file",
    *TLS_PARAMETERS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """One RabbitMQ over AMQP 0-9-1. ``tls`` is None for a plain connection."""

    host: str
    port: int
    virtual_host: str
    user: str = "guest"
    secret: Secret = field(default_factory=lambda: Secret(text="guest"))  # the broker's own default
    tls: Tls | None = None
    external_auth: bool = False
    heartbeat_seconds: int = 10
    blocked_timeout_seconds: float = 60.0
    connect_timeout_seconds: float = 10.0
    setting: str = field(default="amqp_url", repr=False, compare=False)

    @classmethod
    def parse(
        cls,
        url: str | BrokerSettings,
        *,
        setting: str = "amqp_url",
        password_file: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
    ) -> BrokerSettings:
        """``amqp[s]://user:password@host:port/vhost``, checked, its files read once.

        Query parameters: heartbeat, connect_timeout, blocked_timeout (durations), auth_mechanism
        (``plain``, or ``external``: the client certificate proves the user), password_file, ca_file, cert_file,
        key_file, server_name. A keyword argument wins over the query. Raises ConfigurationError.
        """
        if isinstance(url, BrokerSettings):
            return url
        parts = split_url(url, setting, ("amqp", "amqps"), _AMQP_WAY_OUT)
        query = query_of(parts, setting, _AMQP_PARAMETERS)
        if "/" in parts.path[1:]:
            raise ConfigurationError(
                setting, redact_url(url), "must end in one virtual host: /name, or /%2F for the default one"
            )
        tls = tls_of(parts.scheme == "amqps", setting, query, ca_file=ca_file, cert_file=cert_file, key_file=key_file)
        mechanism = query.get("auth_mechanism", "plain")
        if mechanism not in {"plain", "external"} or (mechanism == "external" and not (tls and tls.cert_file)):
            raise ConfigurationError(
                f"{setting} auth_mechanism",
                mechanism,
                "write plain, or external with amqps:// and a cert_file",
            )
        secret = secret_of(parts, setting, password_file or query.get("password_file"))
        settings = cls(
            host=parts.hostname or "",
            port=parts.port or (5671 if tls else 5672),
            virtual_host=unquote(parts.path[1:]) or DEFAULT_VIRTUAL_HOST,
            user=unquote(parts.username or "guest"),
            secret=secret or Secret(text="guest"),
            tls=tls,
            external_auth=mechanism == "external",
            setting=setting,
        )
        if secret is None and parts.username and not settings.external_auth:
            raise ConfigurationError(setting, redact_url(url), "has a user and no password; add it, or a password file")
        return settings._with_times(query)

    def _with_times(self, query: Mapping[str, str]) -> BrokerSettings:
        seconds = {
            name: parse_duration(query[name], setting=f"{self.setting} {name}")
            for name in ("heartbeat", "connect_timeout", "blocked_timeout")
            if name in query
        }
        for name, given in seconds.items():
            if not 1 <= given <= 3600:
                raise ConfigurationError(f"{self.setting} {name}", query[name], "must lie between 1s and 1h")
        return replace(
            self,
            heartbeat_seconds=round(seconds.get("heartbeat", self.heartbeat_seconds)),
            connect_timeout_seconds=seconds.get("connect_timeout", self.connect_timeout_seconds),
            blocked_timeout_seconds=seconds.get("blocked_timeout", self.blocked_timeout_seconds),
        )

    @property
    def address(self) -> str:
        """``host:port/vhost``, to be shown; no credentials."""
        return f"{bracketed(self.host)}:{self.port}/{self.virtual_host}"

    @property
    def is_loopback(self) -> bool:
        """Whether the broker can only be on this machine."""
        return is_loopback_host(self.host)

    def parameters(self, *, connection_name: str) -> Any:
        """``pika.ConnectionParameters`` for one connection attempt; password and certificates read now.

        Raises ConfigurationError when a file has become unreadable: while a secret is being rotated that is an
        outage to wait out, not a reason to end.
        """
        import pika  # noqa: PLC0415 - settings are also read where no broker is used; pika costs 40 ms

        if self.external_auth:
            credentials: Any = pika.credentials.ExternalCredentials()
        else:
            credentials = pika.PlainCredentials(self.user, self.secret.read(setting=self.setting) or "")
        tls = None
        if self.tls is not None:
            tls = pika.SSLOptions(self.tls.context(setting=self.setting), self.tls.server_name or self.host)
        return pika.ConnectionParameters(
            host=self.host,
            port=self.port,
            virtual_host=self.virtual_host,
            credentials=credentials,
            ssl_options=tls,
            heartbeat=self.heartbeat_seconds,
            blocked_connection_timeout=self.blocked_timeout_seconds,
            socket_timeout=self.connect_timeout_seconds,
            stack_timeout=self.connect_timeout_seconds,
            connection_attempts=1,
            client_properties={"connection_name": connection_name},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagementSettings:
    """RabbitMQ's management HTTP API. ``base_url`` has no credentials and no slash at its end."""

    base_url: str
    user: str = "guest"
    secret: Secret = field(default_factory=lambda: Secret(text="guest"))  # the broker's own default
    tls: Tls | None = None
    timeout_seconds: float = 10.0
    setting: str = field(default="management_url", repr=False, compare=False)

    @classmethod
    def parse(
        cls,
        url: str | ManagementSettings,
        *,
        setting: str = "management_url",
        password_file: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
    ) -> ManagementSettings:
        """``http[s]://user:password@host:15672[/prefix]``; query parameters password_file and as for AMQP TLS.

        Raises ConfigurationError.
        """
        if isinstance(url, ManagementSettings):
            return url
        parts = split_url(url, setting, ("http", "https"), "write http://user:password@host:15672 (https:// for TLS)")
        query = query_of(parts, setting, ("password_file", "ca_file", "cert_file", "key_file"))
        secure = parts.scheme == "https"
        tls = tls_of(secure, setting, query, ca_file=ca_file, cert_file=cert_file, key_file=key_file)
        secret = secret_of(parts, setting, password_file or query.get("password_file"))
        if secret is None and parts.username:
            raise ConfigurationError(setting, redact_url(url), "has a user and no password; add it, or a password file")
        port = parts.port or (15671 if secure else 15672)
        prefix = parts.path.rstrip("/").removesuffix("/api")
        return cls(
            base_url=f"{parts.scheme}://{bracketed(parts.hostname or '')}:{port}{prefix}",
            user=unquote(parts.username or "guest"),
            secret=secret or Secret(text="guest"),
            tls=tls,
            setting=setting,
        )

    @property
    def address(self) -> str:
        """``host:port``, to be shown."""
        return self.base_url.partition("://")[2]

    @property
    def is_loopback(self) -> bool:
        """Whether the API can only be on this machine."""
        return is_loopback_host(urlsplit(self.base_url).hostname or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """One PostgreSQL by a libpq connection string, URL or ``key=value``; libpq's own options pass through."""

    options: Mapping[str, str] = field(repr=False)
    secret: Secret = field(default_factory=Secret)
    setting: str = field(default="dsn", repr=False, compare=False)

    @classmethod
    def parse(
        cls, dsn: str | DatabaseSettings, *, setting: str = "dsn", password_file: str | None = None
    ) -> DatabaseSettings:
        """A DSN checked by libpq's own parser. Raises ConfigurationError, which never shows a password."""
        if isinstance(dsn, DatabaseSettings):
            return dsn
        options = _libpq_options(dsn, setting)
        secret = Secret(text=options.pop("password", None), file=password_file)
        secret.read(setting=setting)
        return cls(options=options, secret=secret, setting=setting)

    def conninfo(self) -> str:
        """The connection string for one connection attempt, with the password as it is now.

        A dead peer is noticed within about 15 s unless the DSN says otherwise; libpq alone waits for hours.
        """
        from psycopg.conninfo import make_conninfo  # noqa: PLC0415 - settings are also read without a database

        password = self.secret.read(setting=self.setting)
        given = {**_LIBPQ_DEFAULTS, **self.options}
        return make_conninfo("", **given, **({} if password is None else {"password": password}))

    @property
    def address(self) -> str:
        """``host:port/dbname``, to be shown; no credentials."""
        host = self.options.get("host") or self.options.get("hostaddr") or "local socket"
        port = self.options.get("port", "5432")
        return f"{host}:{port}/{self.options.get('dbname', self.options.get('user', ''))}"

    @property
    def is_loopback(self) -> bool:
        """Whether every host named is this machine; a Unix socket counts, a libpq service file does not."""
        if "service" in self.options:
            return False
        # libpq falls back on PGHOSTADDR and PGHOST where the DSN names no host.
        hosts = [self.options.get(name, "") for name in ("host", "hostaddr")]
        if not any(hosts):
            hosts = [os.environ.get(name, "") for name in ("PGHOST", "PGHOSTADDR")]
        return all(is_loopback_host(host) for hosts_of in hosts for host in hosts_of.split(",") if host)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address})"


_LIBPQ_DEFAULTS = {
    "connect_timeout": "10",
    "fallback_application_name": "outhaul",
    "keepalives_idle": "5",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "15000",
}


def require_loopback(
    settings: BrokerSettings | ManagementSettings | DatabaseSettings, *, allowed: bool, flag: str
) -> None:
    """Refuse a part that is not on this machine unless ``allowed``; ``flag`` is what allows it."""
    if not allowed and not settings.is_loopback:
        raise ConfigurationError(
            settings.setting, settings.address, f"is not on this machine; if that is meant, say so by {flag}"
        )


def is_loopback_host(host: str) -> bool:
    """Whether a host name or address is this machine by its spelling alone; no look-up. Sockets are paths."""
    if host.startswith(("/", "@")) or host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _libpq_options(dsn: str, setting: str) -> dict[str, str]:
    from psycopg import ProgrammingError  # noqa: PLC0415 - settings are also read without a database
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - as above

    way_out = "write postgresql://user:password@host:5432/database, or key=value pairs as libpq takes them"
    if not dsn.strip():
        raise ConfigurationError(setting, "", f"is missing; {way_out}")
    shown = redact_url(dsn)
    try:
        options = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    except ProgrammingError as error:
        # libpq's message quotes pieces of the DSN; only an option's name is safe to show.
        option = _UNKNOWN_OPTION.search(str(error))
        named = f"has no option {option[1]!r}; " if option and "@" not in dsn.partition("?")[2] else ""
        raise ConfigurationError(
            setting, shown, f"{named or 'libpq cannot read it; '}{way_out}; in a password, {ESCAPES}"
        ) from None
    if "://" in dsn and "@" in options.get("dbname", ""):
        raise ConfigurationError(setting, shown, f"has an unescaped character in its password; {ESCAPES}")
    for port in options.get("port", "").split(","):
        if port and not (port.isdigit() and 1 <= int(port) <= 65535):
            raise ConfigurationError(setting, shown, "the port must be a number from 1 to 65535")
    return options


_UNKNOWN_OPTION = re.compile(r'(?:invalid connection option|invalid URI query parameter:?) "([a-z_]{1,40})"')

"""URLs taken apart for the settings: strict, and careful never to quote what may be a password."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from outhaul.configuration.redaction import redact_url
from outhaul.configuration.secret import Secret
from outhaul.configuration.tls import Tls
from outhaul.errors import ConfigurationError

ESCAPES = "percent-encode what is special in it (/ is %2F, @ is %40, # is %23, ? is %3F, : is %3A, % is %25)"
TLS_PARAMETERS = ("ca_file", "cert_file", "key_file", "server_name")


def split_url(url: str, setting: str, schemes: tuple[str, ...], way_out: str) -> SplitResult:
    """The URL in its parts, or ConfigurationError; the parser's own errors quote what may be the password."""
    if not url:
        raise ConfigurationError(setting, "", f"is missing; {way_out}")
    shown = redact_url(url)
    if not url.isprintable() or " " in url:
        raise ConfigurationError(setting, shown, f"holds a space or control character; {ESCAPES}")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigurationError(setting, shown, f"is no URL; {way_out}") from None
    if parts.scheme not in schemes:
        raise ConfigurationError(setting, shown, f"must start with {' or '.join(schemes)}; {way_out}")
    if parts.fragment or "#" in url or "@" in parts.path or "@" in parts.query:
        raise ConfigurationError(setting, shown, f"has an unescaped character in its password; {ESCAPES}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ConfigurationError(
            setting,
            shown,
            f"the port must be a number from 1 to 65535; if it is part of the password, {ESCAPES}",
        ) from None
    if not parts.hostname:
        raise ConfigurationError(setting, shown, f"names no host; {way_out}")
    return parts


def query_of(parts: SplitResult, setting: str, known: tuple[str, ...]) -> dict[str, str]:
    """The query as a mapping; ConfigurationError names an unknown parameter and the nearest known one."""
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ConfigurationError(setting, "?…", "the query must be name=value&name=value") from None
    for name, value in pairs:
        if name not in known:
            near = nearest(name, known)
            raise ConfigurationError(
                f"{setting} query parameter",
                name,
                (f"is not known; did you mean {near}?" if near else "is not known") + f" Known: {', '.join(known)}",
            )
        if not value:
            raise ConfigurationError(f"{setting} {name}", value, "is empty; give it a value or leave it out")
    return dict(pairs)


def tls_of(
    secure: bool,
    setting: str,
    query: Mapping[str, str],
    *,
    ca_file: str | None,
    cert_file: str | None,
    key_file: str | None,
) -> Tls | None:
    """TLS of a URL and its keyword arguments, its files tried; None for a plain scheme, which takes none."""
    given = {name: query.get(name) for name in TLS_PARAMETERS}
    for name, value in (("ca_file", ca_file), ("cert_file", cert_file), ("key_file", key_file)):
        given[name] = value or given[name]
    if not secure:
        for name, value in given.items():
            if value:
                raise ConfigurationError(
                    f"{setting} {name}", value, "needs TLS: write amqps:// or https://, or leave it out"
                )
        return None
    tls = Tls(**given)
    tls.context(setting=setting)
    return tls


def secret_of(parts: SplitResult, setting: str, file: str | None) -> Secret | None:
    """The URL's password or the file's; None when neither is given. The file is read here to refuse early."""
    if file:
        secret = Secret(file=file)
        secret.read(setting=setting)
        return secret
    return Secret(text=unquote(parts.password)) if parts.password else None


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name a person most likely meant."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return found[0] if found else None


def bracketed(host: str) -> str:
    """An IPv6 address as URLs write it; anything else as it is."""
    return f"[{host}]" if ":" in host else host

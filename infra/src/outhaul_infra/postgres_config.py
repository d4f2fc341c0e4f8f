"""`postgresql.conf` and `pg_hba.conf` as text, from the settings."""

from __future__ import annotations

from typing import Final

from outhaul_infra.names import FUNCTIONS, database
from outhaul_infra.postgres_roles import roles_of
from outhaul_infra.setting_fields import quantity_value
from outhaul_infra.settings import Postgres

CONFIG_FOLDER: Final = "/etc/outhaul-postgres"
TLS_FOLDER: Final = "/etc/outhaul-postgres-tls"
SOCKET_FOLDER: Final = "/var/run/postgresql"

_MEBIBYTE: Final = 2**20
_MOST_WAL_BYTES: Final = 4 * 2**30


def postgresql_conf(settings: Postgres, *, tls: bool) -> str:
    """The server's settings; what is not here has its default."""
    memory, storage = quantity_value(settings.memory), quantity_value(settings.storage)
    lines = {
        "listen_addresses": "'*'",
        "unix_socket_directories": f"'{SOCKET_FOLDER}'",
        "hba_file": f"'{CONFIG_FOLDER}/pg_hba.conf'",
        "max_connections": str(settings.max_connections),
        "shared_buffers": _megabytes(memory / 4),
        "effective_cache_size": _megabytes(memory * 3 / 4),
        "max_wal_size": _megabytes(min(_MOST_WAL_BYTES, storage / 4)),
        "log_timezone": "'UTC'",
        "timezone": "'UTC'",
    }
    if tls:
        lines |= {
            "ssl": "on",
            "ssl_cert_file": f"'{TLS_FOLDER}/tls.crt'",
            "ssl_key_file": f"'{TLS_FOLDER}/tls.key'",
        }
    return "".join(f"{key} = {value}\n" for key, value in lines.items())


def hba_lines(*, tls: bool) -> list[str]:
    """Each role to its own database and nowhere else; from the network no superuser. No matching line is a refusal."""
    kind = "hostssl" if tls else "host"
    return [
        "host all postgres all reject",
        *(f"{kind} {database(each)} {','.join(roles_of(each))} all scram-sha-256" for each in FUNCTIONS),
    ]


def pg_hba_conf(*, tls: bool) -> str:
    """The file; the superuser comes in by the socket alone, as the operating system's user of that name."""
    return "\n".join(("local all postgres peer", *hba_lines(tls=tls), ""))


def _megabytes(size: float) -> str:
    return f"{max(16, int(size / _MEBIBYTE))}MB"

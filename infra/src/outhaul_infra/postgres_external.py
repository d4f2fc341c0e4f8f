"""`postgres.mode: external`: a server that is there already, with the roles of `python -m outhaul_infra.external`."""

from __future__ import annotations

from outhaul_infra.endpoints import DatabaseEndpoint
from outhaul_infra.postgres_manifests import PORT
from outhaul_infra.settings import StackSettings


def external_database(settings: StackSettings) -> DatabaseEndpoint:
    """Nothing is made; the settings say where it is."""
    server = settings.postgres
    assert server.host is not None
    return DatabaseEndpoint(host=server.host, port=server.port or PORT, tls=settings.tls.enabled)

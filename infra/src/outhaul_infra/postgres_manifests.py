"""One PostgreSQL server as a StatefulSet that needs nothing but a cluster, as manifests.

Before the server takes connections, each start brings databases, roles and passwords to what they should be, through
the socket: no superuser's password exists, and a rotated one works after a restart.
"""

from __future__ import annotations

from typing import Any, Final

from outhaul_infra import names
from outhaul_infra.manifests import (
    CONTAINER_SECURITY,
    POD_SECURITY,
    Manifest,
    checksum,
    config_map,
    labels,
    metadata,
    resources,
    service_account,
    soft_spread,
    volume_claim,
)
from outhaul_infra.postgres_config import CONFIG_FOLDER, SOCKET_FOLDER, TLS_FOLDER, pg_hba_conf, postgresql_conf
from outhaul_infra.settings import Postgres

PORT: Final = 5432
VOLUME_FOLDER: Final = "/var/lib/postgresql"
DATA_FOLDER: Final = (
    f"{VOLUME_FOLDER}/18/docker"  # where the official image keeps it, so that one can go back to its entry
)
ROLES_FOLDER: Final = "/etc/outhaul-postgres-roles"
RELOAD_SECONDS: Final = 10
_CONFIG_FILE: Final = f"{CONFIG_FOLDER}/postgresql.conf"

# A folder half made is never taken for a data folder, and the locale is PostgreSQL's own, because the C library's
# sorting changes between versions and with it every index on text. Recovery after a crash may take its time.
_PREPARE: Final = f"""set -eu
if [ ! -s {DATA_FOLDER}/PG_VERSION ]; then
  rm -rf {DATA_FOLDER}.new
  mkdir -p {DATA_FOLDER}.new
  initdb --pgdata={DATA_FOLDER}.new --username=postgres --auth-local=peer --auth-host=reject \\
    --encoding=UTF8 --locale-provider=builtin --builtin-locale=C.UTF-8 --locale=C
  mv {DATA_FOLDER}.new {DATA_FOLDER}
fi
# A server that did not get to end properly has left a lock file that names a process of a container long gone.
rm -f {DATA_FOLDER}/postmaster.pid
pg_ctl --pgdata={DATA_FOLDER} --wait --timeout=3600 --options="-c config_file={_CONFIG_FILE} -c listen_addresses=" start
psql --no-psqlrc --quiet --username=postgres --dbname=postgres --file={ROLES_FOLDER}/roles.sql
pg_ctl --pgdata={DATA_FOLDER} --wait --mode=fast stop
"""

# The server reads its certificate at its start and when told to; a mounted Secret changes without a word. The socket
# knows who calls by the user, which is the server's own. A sum taken amid a change is followed by another.
_RELOAD: Final = f"""trap 'exit 0' TERM
seen=
while :; do
  now=$(cat {TLS_FOLDER}/tls.crt {TLS_FOLDER}/tls.key | cksum)
  if [ "$now" != "$seen" ] &&
    psql --no-psqlrc --quiet --username=postgres --dbname=postgres --command='SELECT pg_reload_conf()' >/dev/null; then
    seen=$now
    echo "the server was told to read its certificate"
  fi
  sleep {RELOAD_SECONDS} &
  wait $!
done
"""


def configuration(settings: Postgres, *, tls: bool) -> dict[str, str]:
    """The configuration files."""
    return {"postgresql.conf": postgresql_conf(settings, tls=tls), "pg_hba.conf": pg_hba_conf(tls=tls)}


def configuration_map(settings: Postgres, namespace: str, *, tls: bool) -> Manifest:
    """The ConfigMap with those files."""
    return config_map(names.POSTGRES_CONFIG, namespace, configuration(settings, tls=tls), part=names.POSTGRES)


def others(namespace: str) -> tuple[Manifest, ...]:
    """What stands beside the StatefulSet and changes never."""
    service: Manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(names.POSTGRES, namespace),
        "spec": {
            "selector": labels(names.POSTGRES),
            "ports": [{"name": "postgres", "port": PORT}],
        },
    }
    return service_account(names.POSTGRES, namespace), service


def stateful_set(
    settings: Postgres, namespace: str, *, roles_checksum: Any, retain_data: bool, tls_secret: str | None
) -> Manifest:
    """The server. ``roles_checksum`` changes when a password does, and may be a Pulumi output."""
    tls = tls_secret is not None
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(names.POSTGRES, namespace),
        "spec": {
            "replicas": 1,
            "serviceName": names.POSTGRES,
            "selector": {"matchLabels": labels(names.POSTGRES)},
            "persistentVolumeClaimRetentionPolicy": {
                "whenDeleted": "Retain" if retain_data else "Delete",
                "whenScaled": "Retain",
            },
            "volumeClaimTemplates": [volume_claim("data", settings.storage, settings.storage_class)],
            "template": {
                "metadata": {
                    "labels": labels(names.POSTGRES),
                    "annotations": {
                        "outhaul.dev/config": checksum(*configuration(settings, tls=tls).values()),
                        "outhaul.dev/roles": roles_checksum,
                    },
                },
                "spec": _pod(settings, tls_secret=tls_secret),
            },
        },
    }


def _pod(settings: Postgres, *, tls_secret: str | None) -> dict[str, Any]:
    volumes: list[Manifest] = [
        {"name": "config", "configMap": {"name": names.POSTGRES_CONFIG}},
        {"name": "roles", "secret": {"secretName": names.POSTGRES_ROLES}},
        {"name": "socket", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        # A container's own is 64 MB, too little for parallel queries; what is used of it counts as the container's.
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": settings.memory}},
    ]
    if tls_secret is not None:
        # PostgreSQL takes a key that root owns and its own group may read.
        volumes.append({"name": "tls", "secret": {"secretName": tls_secret, "defaultMode": 0o440}})
    return {
        "serviceAccountName": names.POSTGRES,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": dict(POD_SECURITY),
        "terminationGracePeriodSeconds": 120,
        "topologySpreadConstraints": soft_spread(labels(names.POSTGRES)),
        "initContainers": [_prepare(settings, tls=tls_secret is not None)],
        "containers": [
            _server(settings, tls=tls_secret is not None),
            *([_reload(settings)] if tls_secret is not None else []),
        ],
        "volumes": volumes,
    }


def _prepare(settings: Postgres, *, tls: bool) -> Manifest:
    return {
        "name": "prepare",
        "image": settings.image,
        "command": ["sh", "-c", _PREPARE],
        "securityContext": dict(CONTAINER_SECURITY),
        "resources": resources(settings.cpu, settings.memory),
        "volumeMounts": [*_mounts(tls=tls), {"name": "roles", "mountPath": ROLES_FOLDER, "readOnly": True}],
    }


def _server(settings: Postgres, *, tls: bool) -> Manifest:
    # By the socket: each check by TCP would be a refused superuser in the log.
    command = ["pg_isready", "--quiet", f"--host={SOCKET_FOLDER}", "--username=postgres"]
    check = {"exec": {"command": command}, "timeoutSeconds": 5}
    return {
        "name": "postgres",
        "image": settings.image,
        "command": ["postgres", "-D", DATA_FOLDER, "-c", f"config_file={_CONFIG_FILE}"],
        "ports": [{"name": "postgres", "containerPort": PORT}],
        "securityContext": dict(CONTAINER_SECURITY),
        "resources": resources(settings.cpu, settings.memory),
        "volumeMounts": _mounts(tls=tls),
        # No liveness: a server that recovers or waits for its disk does not answer, and killing it starts that anew.
        "startupProbe": check | {"periodSeconds": 2, "failureThreshold": 300},
        "readinessProbe": check | {"periodSeconds": 5, "failureThreshold": 3},
    }


def _reload(settings: Postgres) -> Manifest:
    return {
        "name": "reload",
        "image": settings.image,
        "command": ["sh", "-c", _RELOAD],
        "env": [{"name": "PGHOST", "value": SOCKET_FOLDER}],
        "securityContext": dict(CONTAINER_SECURITY),
        "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "volumeMounts": [
            {"name": "socket", "mountPath": SOCKET_FOLDER},
            {"name": "tls", "mountPath": TLS_FOLDER, "readOnly": True},
        ],
    }


def _mounts(*, tls: bool) -> list[Manifest]:
    mounts: list[Manifest] = [
        {"name": "data", "mountPath": VOLUME_FOLDER},
        {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True},
        {"name": "socket", "mountPath": SOCKET_FOLDER},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a mount point inside the container
        {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108 - as above
    ]
    if tls:
        mounts.append({"name": "tls", "mountPath": TLS_FOLDER, "readOnly": True})
    return mounts

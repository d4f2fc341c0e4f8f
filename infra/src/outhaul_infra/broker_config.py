"""`rabbitmq.conf` as text, from the settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from outhaul.errors import ConfigurationError
from outhaul_infra.setting_fields import PROJECT, quantity_value

CONFIG_FOLDER: Final = "/etc/rabbitmq"
DEFINITIONS_FILE: Final = "/etc/rabbitmq-users/definitions.json"
TLS_FOLDER: Final = "/etc/rabbitmq-tls"
PLUGINS: Final = ("rabbitmq_management", "rabbitmq_peer_discovery_k8s", "rabbitmq_prometheus")

# Of a container's memory the broker may believe in so much; the rest is the Erlang VM's own and the page cache's.
_MEMORY_SHARE: Final = 0.8
_MOST_FREE_DISK_BYTES: Final = 2 * 2**30
_LOOK_AT_MEMBERS_MILLISECONDS: Final = 60_000
_KEY = re.compile(r"[a-z0-9_]+(\.[A-Za-z0-9_*$-]+)*")


def broker_config(
    *, replicas: int, memory: str, storage: str, tls: bool, extra: Mapping[str, Any], discovery: bool = True
) -> str:
    """The file. ``discovery`` false leaves out what the cluster operator writes itself."""
    lines: dict[str, Any] = {}
    if discovery:
        lines |= {
            "cluster_formation.peer_discovery_backend": "kubernetes",
            # Queues declared while nodes are still missing would have too few members.
            "cluster_formation.target_cluster_size_hint": replicas,
            "log.console": "true",
            "log.file": "false",
            "log.console.formatter": "json",
            "total_memory_available_override_value": int(quantity_value(memory) * _MEMORY_SHARE),
        }
    lines |= {
        "definitions.import_backend": "local_filesystem",
        "definitions.local.path": DEFINITIONS_FILE,
        "default_queue_type": "quorum",
        # A queue that has fewer members than there are nodes, whatever the reason, gets the missing ones.
        "quorum_queue.continuous_membership_reconciliation.enabled": "true",
        "quorum_queue.continuous_membership_reconciliation.target_group_size": replicas,
        "quorum_queue.continuous_membership_reconciliation.interval": _LOOK_AT_MEMBERS_MILLISECONDS,
        "disk_free_limit.absolute": int(min(_MOST_FREE_DISK_BYTES, quantity_value(storage) / 5)),
    }
    if tls and discovery:
        lines |= tls_config()
    lines |= {key: _value(value) for key, value in extra.items()}
    return "".join(f"{key} = {value}\n" for key, value in lines.items())


def tls_config() -> dict[str, str]:
    """AMQP and the management API by TLS alone; clients need no certificate of their own."""
    lines = {"listeners.tcp": "none", "listeners.ssl.default": "5671", "ssl_options.fail_if_no_peer_cert": "false"}
    lines |= {"management.ssl.port": "15671"}
    for prefix in ("ssl_options", "management.ssl"):
        lines |= {
            f"{prefix}.cacertfile": f"{TLS_FOLDER}/ca.crt",
            f"{prefix}.certfile": f"{TLS_FOLDER}/tls.crt",
            f"{prefix}.keyfile": f"{TLS_FOLDER}/tls.key",
        }
    return lines | {"ssl_options.versions.1": "tlsv1.3", "ssl_options.versions.2": "tlsv1.2"}


def enabled_plugins() -> str:
    """The Erlang term RabbitMQ reads."""
    return f"[{','.join(PLUGINS)}].\n"


OWN: Final = frozenset(
    line.partition(" = ")[0]
    for line in broker_config(replicas=3, memory="1Gi", storage="1Gi", tls=True, extra={}).splitlines()
)


def check_extra_config(extra: Mapping[str, Any]) -> None:
    """Raises ConfigurationError for a line that is none, or that the stack writes itself."""
    for key, value in extra.items():
        setting = f"{PROJECT}:rabbitmq.extraConfig"
        if not _KEY.fullmatch(key):
            raise ConfigurationError(setting, key, "write rabbitmq.conf's keys, such as log.console.level")
        if key in OWN:
            raise ConfigurationError(setting, key, "is written by the stack itself; leave it out")
        if not isinstance(value, (str, int, float)) or "\n" in str(value):
            raise ConfigurationError(f"{setting} {key}", value, "write one line of text, a number, or true or false")


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

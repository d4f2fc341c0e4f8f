"""RabbitMQ's definitions file: the virtual host and the users with their rights, and no queue.

A node reads it at every start, so a rotated password works once a node has restarted. Queues are left out because one
that is declared before all nodes are there has too few members; the topology Job declares them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping

from outhaul_infra.broker_users import USERS
from outhaul_infra.names import broker_user

VIRTUAL_HOST = "/"


def password_hash(user: str, password: str) -> str:
    """The salted SHA-256 RabbitMQ keeps: base64 of salt + sha256(salt + password), the salt four bytes.

    The salt comes from user and password, not from chance: a new one at every update would restart every node.
    https://www.rabbitmq.com/docs/passwords#computing-password-hash
    """
    salt = hmac.digest(password.encode(), f"rabbitmq {user}".encode(), "sha256")[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def definitions(passwords: Mapping[str, str], *, virtual_host: str = VIRTUAL_HOST) -> str:
    """The file's text; ``passwords`` by identity, an identity without one is left out."""
    present = [user for user in USERS if user.identity in passwords]
    return json.dumps(
        {
            "vhosts": [{"name": virtual_host, "default_queue_type": "quorum"}],
            "users": [
                {
                    "name": broker_user(user.identity),
                    "password_hash": password_hash(broker_user(user.identity), passwords[user.identity]),
                    "hashing_algorithm": "rabbit_password_hashing_sha256",
                    "tags": list(user.tags),
                }
                for user in present
            ],
            "permissions": [
                {
                    "user": broker_user(user.identity),
                    "vhost": virtual_host,
                    "configure": user.configure,
                    "write": user.write,
                    "read": user.read,
                }
                for user in present
            ],
        },
        indent=1,
    )

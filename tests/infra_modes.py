"""Configurations of the stack that between them reach every mode."""

from __future__ import annotations

from typing import Any

OPERATORS = {"rabbitmq": {"mode": "cluster-operator"}, "postgres": {"mode": "cloudnative-pg", "replicas": 3}}
EXTERNAL = {
    "rabbitmq": {"mode": "external", "host": "mq.example.com", "managementUrl": "https://mq.example.com/api-here/"},
    "postgres": {"mode": "external", "host": "pg.example.com", "port": 6432},
}
TLS = {"tls": {"enabled": True, "issuer": "company-ca"}}
GIVEN_TLS = {
    "tls": {
        "enabled": True,
        "certificates": "secrets",
        "authoritySecret": "authority",
        "rabbitmqSecret": "mq-tls",
        "postgresSecret": "pg-tls",
    }
}
EVERY: dict[str, dict[str, Any]] = {
    "statefulset": {},
    "statefulset, one node": {"rabbitmq": {"replicas": 1}, "retainData": False, "networkPolicies": False},
    "statefulset, cert-manager": TLS,
    "statefulset, given certificates": GIVEN_TLS,
    "operators": OPERATORS,
    "operators, cert-manager": OPERATORS | TLS,
    "external": EXTERNAL,
    "external, TLS": EXTERNAL | {"tls": {"enabled": True, "authoritySecret": "authority"}},
    "KEDA installed": {"keda": {"install": True}},
    "no KEDA": {"keda": {"enabled": False}},
    "protected": {"protect": True},
    "given namespaces": {"namespaces": {"create": False, "app": "shop", "data": "shop-data", "monitoring": "prom"}},
}

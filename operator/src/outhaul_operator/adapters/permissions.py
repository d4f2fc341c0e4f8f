"""Every verb the operator uses on the API server, and what for: the chart's Role is compared with this.

`list` and `watch` of the custom resources and of Jobs are kopf's, by `outhaul_operator.handlers`; the rest is used by
`outhaul_operator.adapters.kubernetes`. Jobs themselves have no access to the API server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Permission:
    """One rule of a Role. ``why`` is for people who review it."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    why: str


PERMISSIONS: Final = (
    *(
        permission
        for plural in ("outboxes", "inboxes", "resends", "redrives")
        for permission in (
            Permission("outhaul.dev", plural, ("get", "list", "watch"), "to look after them"),
            Permission("outhaul.dev", f"{plural}/status", ("update",), "to say what was found"),
        )
    ),
    Permission("", "secrets", ("get",), "addresses of databases and brokers; only labelled ones are used"),
    Permission("", "configmaps", ("get",), "the declared topology, to show drift from it"),
    Permission("batch", "jobs", ("create", "list", "patch", "watch"), "to resend and redrive, and to let Jobs expire"),
    Permission("", "pods", ("list",), "a Job's result, and why its pod does not start"),
    Permission("", "events", ("create", "get", "patch"), "to tell transitions; a repeated one is counted"),
)

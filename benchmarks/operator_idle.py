"""kopf alone, with the operator's watch and handlers that do nothing: what watching costs without looking."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import kopf

from outhaul_operator.handlers import PLURALS, log_in, make_settings
from outhaul_operator.specs import GROUP, VERSION


async def nothing(**_: Any) -> None:
    """Do nothing."""


async def main() -> None:
    """Watch the namespaces of the operator's setting, until SIGTERM."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(log_in)
    for plural in PLURALS:
        kopf.on.event(GROUP, VERSION, plural, registry=registry)(nothing)
    kopf.on.event("batch", "v1", "jobs", registry=registry)(nothing)
    await kopf.operator(
        registry=registry,
        settings=make_settings(timeout_seconds=5.0),
        standalone=True,
        namespaces=os.environ["OUTHAUL_OPERATOR_NAMESPACES"].split(","),
    )


if __name__ == "__main__":
    asyncio.run(main())

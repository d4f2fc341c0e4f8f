"""Forgets expired idempotency keys, a bounded batch at a time, so that no request waits behind a large delete."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from outhaul.hosting.database import NotCommitted
from outhaul_order.store import OrderStore

BATCH_KEYS: Final = 1000
INTERVAL_SECONDS: Final = 60.0
_log = logging.getLogger("outhaul.order")


async def forget_expired_keys(
    store: OrderStore, stop: asyncio.Event, *, interval_seconds: float = INTERVAL_SECONDS
) -> None:
    """Until ``stop`` is set: a batch at once after a full one, else after the interval. An outage is waited out."""
    while not stop.is_set():
        try:
            forgotten = await store.forget_expired_keys(BATCH_KEYS)
        except NotCommitted as error:
            _log.info("expired idempotency keys stay for now: %s", error.why)
            forgotten = 0
        if forgotten < BATCH_KEYS:
            try:
                async with asyncio.timeout(interval_seconds):
                    await stop.wait()
            except TimeoutError:
                continue

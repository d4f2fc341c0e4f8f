"""Clients that place orders as they should: a key each, asked again with that key until they know what became of it."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

import httpx

from chaos.ledger import Told
from support import poll

CLIENTS = 12
REQUEST_SECONDS = 6.0
AGAIN_SECONDS = 0.2
LINES = [{"sku": "kettle", "quantity": 2, "unit_price_cents": 1999}]


class Load:
    """Orders at a steady rate to several functions in turn, on a thread of its own, from `with` to :meth:`finish`.

    ``told`` is the ledger's client side; it is whole once :meth:`finish` has returned. ``problems`` holds the last
    answer of each status but 201. ``rate`` is orders per second over all clients; a client that waits for an answer
    places no other order, so an outage slows the load down.
    """

    def __init__(self, urls: Sequence[str], *, rate: float = 60, prefix: str = "order", clients: int = CLIENTS) -> None:
        self.told = Told()
        self.problems: dict[int, dict[str, Any]] = {}
        self._urls = itertools.cycle(urls)
        self._clients = clients
        self._pause_seconds = clients / rate
        self._prefix = prefix
        self._numbers = itertools.count()
        self._enough = threading.Event()
        self._give_up_at = float("inf")
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._give_up_at = 0
        self._enough.set()
        self._thread.join(30)

    @property
    def acknowledged(self) -> int:
        """Orders acknowledged so far."""
        return len(self.told.acknowledged)

    def more(self, count: int, *, seconds: float = 120) -> None:
        """Until that many more orders are acknowledged."""
        wanted = self.acknowledged + count
        poll(lambda: self.acknowledged >= wanted, seconds=seconds, what=f"{count} more orders")

    def attempts(self, count: int, *, seconds: float = 120) -> None:
        """Until that many more orders are attempted, acknowledged or not."""
        wanted = len(self.told.attempted) + count
        poll(lambda: len(self.told.attempted) >= wanted, seconds=seconds, what=f"{count} more attempts")

    def finish(self, *, seconds: float = 30) -> Told:
        """No new orders; those begun are asked for until they are answered, ``seconds`` at most."""
        self._give_up_at = time.monotonic() + seconds
        self._enough.set()
        self._thread.join(seconds + REQUEST_SECONDS + 5)
        assert not self._thread.is_alive(), "the clients did not end"
        return self.told

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=2 * self._clients)
        async with httpx.AsyncClient(timeout=REQUEST_SECONDS, trust_env=False, limits=limits) as http:
            await asyncio.gather(*(self._client(http) for _ in range(self._clients)))

    async def _client(self, http: httpx.AsyncClient) -> None:
        while not self._enough.is_set():
            began = time.monotonic()
            await self._place(http, f"{self._prefix}-{next(self._numbers)}")
            await asyncio.sleep(max(0.0, began + self._pause_seconds - time.monotonic()))

    async def _place(self, http: httpx.AsyncClient, key: str) -> None:
        self.told.attempted.add(key)
        while True:
            await self._ask(http, key)
            if key in self.told.acknowledged or key in self.told.refused or time.monotonic() > self._give_up_at:
                return
            await asyncio.sleep(AGAIN_SECONDS)

    async def _ask(self, http: httpx.AsyncClient, key: str) -> None:
        order: dict[str, Any] = {"customer": key, "lines": LINES}
        try:
            answer = await http.post(f"{next(self._urls)}/orders", json=order, headers={"Idempotency-Key": key})
        except httpx.HTTPError:
            self.told.unknown[key] += 1
            return
        if answer.status_code == 201:
            self.told.acknowledged[key].add(answer.json()["order_id"])
            return
        self.problems[answer.status_code] = answer.json()
        if answer.status_code == 409 or answer.status_code >= 500:
            self.told.unknown[key] += 1
        else:
            self.told.refused[key] = answer.status_code

"""A frugal HTTP/1.1 client for one endpoint.

The demo's client shares the machine's cores with what it measures. One connection sends one request after the
other; an answer without Content-Length, which the order function never gives, is a failure of the connection.
Whatever happens between sending and reading the answer leaves the outcome unknown, and the same request with the
same Idempotency-Key is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from dataclasses import dataclass
from enum import Enum

from outhaul_local.demo_orders import Job

ANSWER_SECONDS = 15.0
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
LONGEST_ANSWER_BYTES = 1_000_000


class Verdict(Enum):
    """What became of one order, as its client knows it."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Result:
    """``replayed``: the key was known, so an earlier try had been committed. ``tries`` counts requests sent."""

    verdict: Verdict
    tries: int
    replayed: bool = False
    detail: str = ""


class Broken(Exception):
    """The connection failed; whether the request was carried out is not known."""


class OrderConnection:
    """One keep-alive connection to the order function, opened again as needed."""

    def __init__(self, host: str, port: int, *, give_up_seconds: float) -> None:
        self._host = host
        self._port = port
        self._give_up_seconds = give_up_seconds
        self._head = f"POST /orders HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n".encode()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def place(self, job: Job) -> Result:
        """Place an order, again and again with the same key until there is an answer or the time is up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._give_up_seconds
        pause = FIRST_PAUSE_SECONDS
        tries = 0
        while True:
            tries += 1
            why = ""
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    status, headers, body = await self._ask(job)
            except (OSError, TimeoutError, Broken, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
                self.close()
                why = str(error) or type(error).__name__
            else:
                if status == 201:
                    return Result(Verdict.ACCEPTED, tries, replayed=headers.get(b"idempotency-replayed") == b"true")
                if 400 <= status < 500 and status not in {408, 409, 429}:
                    return Result(Verdict.REFUSED, tries, detail=_problem(status, body))
                why = _problem(status, body)
            if loop.time() >= deadline:
                return Result(Verdict.UNKNOWN, tries, detail=why)
            await asyncio.sleep(pause * random.random())  # noqa: S311 - full jitter, no secret
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)

    async def _ask(self, job: Job) -> tuple[int, dict[bytes, bytes], bytes]:
        reader, writer = await self._streams()
        writer.write(
            b"%bIdempotency-Key: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (self._head, job.key.encode(), len(job.body), job.body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        status_line, *lines = head[:-4].split(b"\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or int(length) > LONGEST_ANSWER_BYTES:
            raise Broken("an answer without a usable Content-Length")
        body = await reader.readexactly(int(length))
        if headers.get(b"connection", b"").lower() == b"close":
            self.close()
        return int(status_line.split(b" ", 2)[1]), headers, body

    async def _streams(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self._reader, self._writer

    def close(self) -> None:
        """Drop the connection; the next request opens another."""
        if self._writer is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self._writer.close()
        self._reader = self._writer = None


def _problem(status: int, body: bytes) -> str:
    """The sentence in a problem+json body (RFC 9457)."""
    try:
        problem = json.loads(body)
        field, detail = problem.get("field"), problem.get("detail") or problem.get("title")
    except (ValueError, AttributeError):
        return f"status {status}"
    return f"status {status}: " + (f"{field}: {detail}" if field else str(detail))

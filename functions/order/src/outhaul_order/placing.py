"""`POST /orders`: one ASGI application of its own, without a framework in the way. It never waits for the broker."""

from __future__ import annotations

import logging
import re
import time
from typing import Final

from starlette.types import Receive, Scope, Send

from outhaul.hosting.metrics import HttpMetrics
from outhaul.hosting.problems import INTERNAL_ERROR, PROBLEM_JSON, Problem
from outhaul_order import problems
from outhaul_order.request import Disconnected, head_of, linger, read_body, require_json
from outhaul_order.store import OrderStore, Placed
from outhaul_order.validation import parse_idempotency_key, parse_order

ROUTE: Final = "POST /orders"
_log = logging.getLogger("outhaul.order")
# https://www.w3.org/TR/trace-context/#traceparent-header, version 00; another version is not passed on.
_TRACEPARENT: Final = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_CREATED_HEADERS: Final = [(b"content-type", b"application/json")]
_REPLAYED_HEADERS: Final = [*_CREATED_HEADERS, (b"idempotency-replayed", b"true")]


class PlaceOrder:
    """Takes one order a request. ``limit_bytes`` bounds the body."""

    def __init__(self, store: OrderStore, metrics: HttpMetrics, *, limit_bytes: int) -> None:
        self._store = store
        self._metrics = metrics
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        started = time.perf_counter()
        try:
            placed = await self._place(scope, receive)
        except Problem as problem:
            await self._refuse(problem, started, receive, send)
            return
        except Disconnected:
            return
        except Exception:  # noqa: BLE001 - the outermost handler: it is logged, and the client gets an answer
            _log.exception("an order failed in an unforeseen way")
            await self._refuse(Problem(INTERNAL_ERROR, "the failure was logged"), started, receive, send)
            return
        body = b'{"order_id":"%b","message_id":"%b","status":"pending"}' % (
            (order_id := str(placed.order_id).encode()),
            str(placed.message_id).encode(),
        )
        headers = [
            *(_REPLAYED_HEADERS if placed.replayed else _CREATED_HEADERS),
            (b"location", b"/orders/" + order_id),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self._metrics.answered(ROUTE, 201, started)

    async def _place(self, scope: Scope, receive: Receive) -> Placed:
        head = head_of(scope)
        require_json(head)
        key = parse_idempotency_key(head.idempotency_keys)
        valid = parse_order(await read_body(head, receive, limit_bytes=self._limit_bytes))
        traceparent = None
        if head.traceparent is not None and _TRACEPARENT.fullmatch(head.traceparent):
            traceparent = head.traceparent.decode("ascii")
        return await self._store.place(valid, key=key, traceparent=traceparent)

    async def _refuse(self, problem: Problem, started: float, receive: Receive, send: Send) -> None:
        body = problem.body()
        headers = [(b"content-type", PROBLEM_JSON.encode()), (b"content-length", b"%d" % len(body))]
        headers += [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
        self._metrics.answered(ROUTE, problem.kind.status, started)
        await send({"type": "http.response.start", "status": problem.kind.status, "headers": headers})
        cut_off = problem.kind in {problems.BODY_TOO_LARGE, problems.SLOW_REQUEST}
        await send({"type": "http.response.body", "body": body, "more_body": cut_off})
        if cut_off:
            await linger(receive)
            await send({"type": "http.response.body", "body": b""})

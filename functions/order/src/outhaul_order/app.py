"""The order function's paths. `POST /orders` goes straight to its handler, everything else through Starlette."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any
from uuid import UUID

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from outhaul.hosting.health import JSON, health_routes
from outhaul.hosting.metrics import HttpMetrics
from outhaul.hosting.problems import EXCEPTION_HANDLERS, Problem
from outhaul.metrics import Metrics
from outhaul_order import openapi, problems
from outhaul_order.placing import PlaceOrder
from outhaul_order.store import OrderStore


def make_app(
    store: OrderStore, metrics: Metrics, *, limit_bytes: int, unwell: Callable[[], str | None] = lambda: None
) -> ASGIApp:
    """The ASGI application. ``unwell`` says why the process should be restarted; None while it should not."""
    http_metrics = HttpMetrics(metrics)
    place = PlaceOrder(store, http_metrics, limit_bytes=limit_bytes)

    async def show(request: Request) -> Response:
        text = request.path_params["order_id"]
        try:
            order_id = UUID(text)
        except ValueError as error:
            raise Problem(problems.UNKNOWN_ORDER, f"{text[:80]!r} is no order id", field="order_id") from error
        return Response(msgspec.json.encode(await store.show(order_id)), media_type=JSON)

    others = Starlette(
        routes=[
            Route("/orders", place, methods=["POST"]),
            Route("/orders/{order_id}", http_metrics.counted("GET /orders/{order_id}", show)),
            *health_routes(unwell=unwell, not_ready=store.not_ready, metrics=metrics.exposition, document=_document),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    others.router.redirect_slashes = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/orders" and scope["method"] == "POST":
            await place(scope, receive, send)
        else:
            await others(scope, receive, send)

    return app


def _document() -> dict[str, Any]:
    return openapi.document(version("outhaul-order"))

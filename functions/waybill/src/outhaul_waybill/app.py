"""The waybill function's paths: it shows waybills and how it fares. Everything else comes by message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any
from uuid import UUID

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from outhaul.hosting.health import JSON, health_routes
from outhaul.hosting.metrics import HttpMetrics
from outhaul.hosting.problems import EXCEPTION_HANDLERS, Problem
from outhaul.metrics import Metrics
from outhaul_waybill import openapi, problems
from outhaul_waybill.store import WaybillStore


def make_app(
    store: WaybillStore,
    metrics: Metrics,
    *,
    unwell: Callable[[], str | None],
    not_ready: Callable[[], Awaitable[str | None]],
) -> ASGIApp:
    """The ASGI application. ``unwell`` and ``not_ready`` say why not; None when all is well."""
    http_metrics = HttpMetrics(metrics)

    async def show(request: Request) -> Response:
        text = request.path_params["order_id"]
        try:
            order_id = UUID(text)
        except ValueError as error:
            raise Problem(problems.UNKNOWN_WAYBILL, f"{text[:80]!r} is no order id", field="order_id") from error
        return Response(msgspec.json.encode(await store.show(order_id)), media_type=JSON)

    app = Starlette(
        routes=[
            Route("/waybills/{order_id}", http_metrics.counted("GET /waybills/{order_id}", show)),
            *health_routes(unwell=unwell, not_ready=not_ready, metrics=metrics.exposition, document=_document),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    app.router.redirect_slashes = False
    return app


def _document() -> dict[str, Any]:
    return openapi.document(version("outhaul-waybill"))

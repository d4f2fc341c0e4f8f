"""`/healthz`, `/readyz`, `/metrics` and `/openapi.json`: what every function answers besides its own paths."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from outhaul.hosting.problems import NOT_READY, Problem

JSON = "application/json"


def health_routes(
    *,
    unwell: Callable[[], str | None],
    not_ready: Callable[[], Awaitable[str | None]],
    metrics: Callable[[], tuple[bytes, str]],
    document: Callable[[], dict[str, Any]],
) -> list[Route]:
    """Routes of the four paths.

    ``unwell`` says why the process should be restarted, ``not_ready`` why it should get no requests now; None is well.
    ``metrics`` gives the exposition and its content type, ``document`` the OpenAPI document (asked for once).
    """
    rendered: list[bytes] = []

    async def healthz(_request: Request) -> Response:
        return _state(unwell())

    async def readyz(_request: Request) -> Response:
        return _state(await not_ready())

    async def exposition(_request: Request) -> Response:
        body, content_type = metrics()
        return Response(body, headers={"Content-Type": content_type})

    async def openapi(_request: Request) -> Response:
        if not rendered:
            rendered.append(msgspec.json.encode(document()))
        return Response(rendered[0], media_type=JSON)

    return [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", exposition),
        Route("/openapi.json", openapi),
    ]


def _state(trouble: str | None) -> Response:
    if trouble is not None:
        raise Problem(NOT_READY, trouble, retry_after_seconds=1)
    return Response(b'{"status":"ok"}', media_type=JSON)

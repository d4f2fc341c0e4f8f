"""An API server that refuses what a test says it should: overloaded, broken, or without the resource definitions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aiohttp import web

from cluster.api_proxy import ApiProxy


@dataclass(frozen=True, slots=True)
class Refusal:
    """Requests of this method whose path matches are answered so."""

    method: str
    path: re.Pattern[str]
    status: int


class RefusingProxy(ApiProxy):
    """Passes everything on but what it was told to refuse; ``refused`` counts that."""

    refused = 0
    _refusal: Refusal | None = None

    def refuse(self, method: str, path: str, status: int) -> None:
        """From now on; ``path`` is a pattern. One refusal at a time."""
        self._refusal = Refusal(method, re.compile(path), status)

    def relent(self) -> None:
        """Pass everything on again."""
        self._refusal = None

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        refusal = self._refusal
        if refusal is None or request.method != refusal.method or not refusal.path.search(request.path):
            return await super()._forward(request)
        self.refused += 1
        if refusal.status == 503:
            # What stands before an API server answers in words of its own.
            return web.Response(status=503, text="no endpoints available")
        answer = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": "refused by the test",
            "reason": {404: "NotFound", 409: "Conflict", 429: "TooManyRequests", 500: "InternalError"}[refusal.status],
            "code": refusal.status,
        }
        return web.json_response(answer, status=refusal.status)

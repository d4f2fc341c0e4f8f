"""An API server that refuses what a test says it should: overloaded, broken, or without the resource definitions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aiohttp import web

from cluster.api_proxy import ApiProxy

_WHOLE_CLUSTER = re.compile(r"(?P<group>/apis/(outhaul\.dev/v1alpha1|batch/v1))/(?P<plural>[a-z]+)")


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
    _narrowed_to: str | None = None
    widest: frozenset[str] = frozenset()
    """The paths that were asked of the whole cluster, once it is narrowed."""

    def refuse(self, method: str, path: str, status: int) -> None:
        """From now on; ``path`` is a pattern. One refusal at a time."""
        self._refusal = Refusal(method, re.compile(path), status)

    def narrow(self, namespace: str) -> None:
        """Let that namespace be the whole cluster, so that an operator of it all harms nobody else."""
        self._narrowed_to = namespace

    def relent(self) -> None:
        """Pass everything on again."""
        self._refusal = None

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        whole = _WHOLE_CLUSTER.fullmatch(request.path)
        if self._narrowed_to is not None and whole is not None:
            self.widest |= {request.path}
            path = f"{whole['group']}/namespaces/{self._narrowed_to}/{whole['plural']}"
            request = request.clone(rel_url=request.rel_url.with_path(path).with_query(request.rel_url.query))
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

"""Errors as HTTP answers: `application/problem+json` (RFC 9457), always naming what to change.

A `Kind` is one sort of problem with its status; a `Problem` is one occurrence, raised anywhere below a handler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ExceptionHandler

PROBLEM_JSON = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of problem. ``slug`` is the end of its type URI, ``title`` says it for any occurrence."""

    slug: str
    status: int
    title: str

    @property
    def uri(self) -> str:
        """The `type` member: a URN, since there is no page to promise for every installation."""
        return f"urn:outhaul:problem:{self.slug}"


INTERNAL_ERROR = Kind("internal-error", 500, "The service failed in a way it did not foresee")
NOT_READY = Kind("not-ready", 503, "The service cannot do its work now")


class Problem(Exception):
    """One occurrence of a problem. ``field`` names the part of the request to change (a path or a header).

    ``retry_after_seconds`` becomes `Retry-After`; ``extra`` are further members (RFC 9457 section 3.2).
    """

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        field: str | None = None,
        retry_after_seconds: int | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.field = field
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})
        if retry_after_seconds is not None:
            self.headers["Retry-After"] = str(retry_after_seconds)

    def body(self) -> bytes:
        """The JSON document."""
        members: dict[str, Any] = {
            "type": self.kind.uri,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
        }
        if self.field is not None:
            members["field"] = self.field
            members["errors"] = [{"field": self.field, "detail": self.detail}]
        return msgspec.json.encode({**self.extra, **members})

    def response(self) -> Response:
        """The whole answer."""
        return Response(self.body(), self.kind.status, headers=self.headers, media_type=PROBLEM_JSON)


def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no such path, method not allowed."""
    assert isinstance(error, HTTPException)
    details = {
        404: f"there is nothing at {request.url.path}; /openapi.json lists what there is",
        405: f"{request.method} is not allowed at {request.url.path}; the Allow header lists what is",
    }
    status = HTTPStatus(error.status_code)
    kind = Kind(status.phrase.lower().replace(" ", "-"), status.value, status.phrase)
    return Problem(kind, details.get(status.value, error.detail), headers=error.headers).response()


def _unforeseen(_request: Request, _error: Exception) -> Response:
    """Anything else; uvicorn logs the traceback, the answer says nothing of the inside."""
    return Problem(INTERNAL_ERROR, "the failure was logged").response()


EXCEPTION_HANDLERS: Mapping[Any, ExceptionHandler] = {
    Problem: _problem,
    HTTPException: _http_error,
    Exception: _unforeseen,
}

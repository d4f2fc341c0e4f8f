"""The common parts of an OpenAPI 3.1 document: problem answers and the health paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outhaul.hosting.problems import INTERNAL_ERROR, NOT_READY, PROBLEM_JSON, Kind

PROBLEM_REF = {"$ref": "#/components/schemas/Problem"}

PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "An error as RFC 9457 describes it; `field` names the part of the request to change.",
    "type": "object",
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "field": {"type": "string", "examples": ["lines[0].quantity"]},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "detail": {"type": "string"}},
                "required": ["field", "detail"],
            },
        },
    },
    "required": ["type", "title", "status", "detail"],
}
RETRY_AFTER = {
    "Retry-After": {"description": "Seconds to wait before trying again.", "schema": {"type": "integer", "minimum": 0}}
}


def problem_responses(*kinds: Kind, retryable: tuple[int, ...] = (503,)) -> dict[str, Any]:
    """The `responses` of these kinds, by status; INTERNAL_ERROR is always among them."""
    responses: dict[str, Any] = {}
    for kind in sorted({*kinds, INTERNAL_ERROR}, key=lambda kind: (kind.status, kind.slug)):
        known = responses.setdefault(
            str(kind.status), {"description": "", "content": {PROBLEM_JSON: {"schema": PROBLEM_REF}}}
        )
        known["description"] += f"{'; ' if known['description'] else ''}{kind.title} (`{kind.uri}`)"
        if kind.status in retryable:
            known["headers"] = RETRY_AFTER
    return responses


def json_content(schema: str) -> dict[str, Any]:
    """`content` of a JSON body with a named schema."""
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def document(
    *, title: str, version: str, description: str, paths: Mapping[str, Any], schemas: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole document, health paths included."""
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": description, "license": {"name": "Apache-2.0"}},
        "paths": {**paths, **_HEALTH_PATHS},
        "components": {"schemas": {**schemas, "Problem": PROBLEM_SCHEMA}},
    }


def _health(operation: str, summary: str) -> dict[str, Any]:
    well = {"description": "It is well.", "content": {"application/json": {"schema": {"type": "object"}}}}
    responses = {"200": well, **problem_responses(NOT_READY)}
    return {"get": {"operationId": operation, "summary": summary, "tags": ["health"], "responses": responses}}


_HEALTH_PATHS: dict[str, Any] = {
    "/healthz": _health("health", "Whether the process should go on living"),
    "/readyz": _health("readiness", "Whether it should get requests now"),
    "/metrics": {
        "get": {
            "operationId": "metrics",
            "summary": "Prometheus metrics",
            "tags": ["health"],
            "responses": {
                "200": {"description": "The exposition.", "content": {"text/plain": {"schema": {"type": "string"}}}}
            },
        }
    },
    "/openapi.json": {
        "get": {
            "operationId": "description",
            "summary": "This document",
            "tags": ["health"],
            "responses": {
                "200": {"description": "OpenAPI 3.1.", "content": {"application/json": {"schema": {"type": "object"}}}}
            },
        }
    },
}

"""The OpenAPI 3.1 document of the order function, made from the types it decodes with."""

from __future__ import annotations

from typing import Any

import msgspec

from outhaul.hosting.openapi import document as common_document
from outhaul.hosting.openapi import json_content, problem_responses
from outhaul_order import problems
from outhaul_order.models import AcceptedOrder, NewOrder, OrderView
from outhaul_order.validation import MAX_KEY_LENGTH

_EXAMPLE = {"customer": "Ada", "lines": [{"sku": "kettle", "quantity": 2, "unit_price_cents": 1999}]}
_KEY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": (
        "Makes it safe to send the order again: the same key with the same order gives the first answer again and "
        "places nothing. Visible ASCII without spaces. Kept for 24 hours by default."
    ),
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH, "pattern": "^[!-~]+$"},
}
_TRACEPARENT_PARAMETER = {
    "name": "traceparent",
    "in": "header",
    "required": False,
    "description": "W3C trace context; carried on by the message.",
    "schema": {"type": "string"},
}
_CREATED = {
    "description": "The order and its message are committed. The broker need not have it yet.",
    "headers": {
        "Location": {"description": "Where the order can be read.", "schema": {"type": "string"}},
        "Idempotency-Replayed": {
            "description": "`true` when an earlier request with this key placed the order.",
            "schema": {"type": "string", "enum": ["true"]},
        },
    },
    "content": json_content("AcceptedOrder"),
}


def document(version: str) -> dict[str, Any]:
    """The document, as plain values."""
    _, schemas = msgspec.json.schema_components(
        [NewOrder, AcceptedOrder, OrderView], ref_template="#/components/schemas/{name}"
    )
    return common_document(
        title="Outhaul order function",
        version=version,
        description="Takes orders. Each has a message that is sent at least once and takes effect once.",
        paths={"/orders": {"post": _place()}, "/orders/{order_id}": {"get": _show()}},
        schemas=schemas,
    )


def _place() -> dict[str, Any]:
    return {
        "operationId": "placeOrder",
        "summary": "Place an order",
        "tags": ["orders"],
        "parameters": [_KEY_PARAMETER, _TRACEPARENT_PARAMETER],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/NewOrder"}, "example": _EXAMPLE}},
        },
        "responses": {
            "201": _CREATED,
            **problem_responses(
                problems.MALFORMED_JSON,
                problems.BAD_IDEMPOTENCY_KEY,
                problems.SLOW_REQUEST,
                problems.KEY_IN_USE,
                problems.BODY_TOO_LARGE,
                problems.UNSUPPORTED_MEDIA_TYPE,
                problems.INVALID_FIELD,
                problems.KEY_REUSED,
                problems.CANNOT_COMMIT,
                problems.OUTCOME_UNKNOWN,
                retryable=(409, 503),
            ),
        },
    }


def _show() -> dict[str, Any]:
    return {
        "operationId": "showOrder",
        "summary": "Show an order and how its message fares",
        "tags": ["orders"],
        "parameters": [
            {"name": "order_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
        ],
        "responses": {
            "200": {"description": "The order.", "content": json_content("OrderView")},
            **problem_responses(problems.UNKNOWN_ORDER, problems.CANNOT_READ),
        },
    }

"""The OpenAPI 3.1 document of the waybill function, made from the types it encodes."""

from __future__ import annotations

from typing import Any

import msgspec

from outhaul.hosting.openapi import document as common_document
from outhaul.hosting.openapi import json_content, problem_responses
from outhaul_waybill import problems
from outhaul_waybill.models import WaybillView


def document(version: str) -> dict[str, Any]:
    """The document, as plain values."""
    _, schemas = msgspec.json.schema_components([WaybillView], ref_template="#/components/schemas/{name}")
    return common_document(
        title="Outhaul waybill function",
        version=version,
        description="Shows the waybill of each order. Waybills are made from messages, never over HTTP.",
        paths={"/waybills/{order_id}": {"get": _show()}},
        schemas=schemas,
    )


def _show() -> dict[str, Any]:
    return {
        "operationId": "showWaybill",
        "summary": "Show the waybill of an order",
        "tags": ["waybills"],
        "parameters": [
            {"name": "order_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
        ],
        "responses": {
            "200": {"description": "The waybill.", "content": json_content("WaybillView")},
            **problem_responses(problems.UNKNOWN_WAYBILL, problems.CANNOT_READ),
        },
    }

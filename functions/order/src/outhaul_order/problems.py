"""The problems the order function answers with, one `Kind` each."""

from __future__ import annotations

from typing import Final

from outhaul.hosting.problems import Kind

BAD_IDEMPOTENCY_KEY: Final = Kind("bad-idempotency-key", 400, "The Idempotency-Key cannot be used")
MALFORMED_JSON: Final = Kind("malformed-json", 400, "The body is not JSON")
UNKNOWN_ORDER: Final = Kind("unknown-order", 404, "There is no such order")
SLOW_REQUEST: Final = Kind("slow-request", 408, "The body did not arrive in time")
KEY_IN_USE: Final = Kind("key-in-use", 409, "A request with this Idempotency-Key is being handled")
BODY_TOO_LARGE: Final = Kind("body-too-large", 413, "The body is larger than is taken")
UNSUPPORTED_MEDIA_TYPE: Final = Kind("unsupported-media-type", 415, "The body is not declared as JSON")
INVALID_FIELD: Final = Kind("invalid-field", 422, "A field has a value that cannot be used")
KEY_REUSED: Final = Kind("key-reused", 422, "This Idempotency-Key was used with another body")
CANNOT_COMMIT: Final = Kind("cannot-commit", 503, "The order was not taken: the database cannot commit now")
OUTCOME_UNKNOWN: Final = Kind("outcome-unknown", 503, "The connection was lost while the order was being committed")
CANNOT_READ: Final = Kind("cannot-read", 503, "The database cannot be read now")

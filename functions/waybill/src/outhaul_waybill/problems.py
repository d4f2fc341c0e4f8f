"""The problems the waybill function answers with, one `Kind` each."""

from __future__ import annotations

from typing import Final

from outhaul.hosting.problems import Kind

UNKNOWN_WAYBILL: Final = Kind("unknown-waybill", 404, "There is no waybill for this order")
CANNOT_READ: Final = Kind("cannot-read", 503, "The database cannot be read now")

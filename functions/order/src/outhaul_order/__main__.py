"""``python -P -m outhaul_order``: the order function, told by environment variables alone."""

from __future__ import annotations

import sys

import uvloop

from outhaul.hosting.process import run
from outhaul_order.config import OrderConfig
from outhaul_order.service import serve


def main() -> int:
    """Exit code 0 after an orderly end, 2 for a setting that cannot be used."""
    return run("outhaul-order", OrderConfig.from_environment, serve, new_loop=uvloop.new_event_loop)


if __name__ == "__main__":
    sys.exit(main())

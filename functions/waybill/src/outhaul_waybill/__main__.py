"""``python -P -m outhaul_waybill``: the waybill function, told by environment variables alone."""

from __future__ import annotations

import sys

from outhaul.hosting.process import run
from outhaul_waybill.config import WaybillConfig
from outhaul_waybill.service import serve


def main() -> int:
    """Exit code 0 after an orderly end, 1 when the consumer failed, 2 for a setting that cannot be used."""
    return run("outhaul-waybill", WaybillConfig.from_environment, serve)


if __name__ == "__main__":
    sys.exit(main())

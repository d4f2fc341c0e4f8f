"""The `outhaul` command, which knows no failpoints, with those of OUTHAUL_TEST_FAILPOINTS armed."""

from __future__ import annotations

import logging
import os
import sys

from outhaul.cli import main
from outhaul.failpoints import ORDER_POINTS, SETTING, arm, parse

if __name__ == "__main__":
    logger = logging.getLogger("outhaul.failpoints")  # the command itself keeps the library's log to itself
    logger.addHandler(logging.StreamHandler())
    logger.propagate = False
    arm(parse(os.environ.pop(SETTING, ""), offered=ORDER_POINTS))
    sys.exit(main())

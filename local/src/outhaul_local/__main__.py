"""`python -m outhaul_local`."""

import sys

from outhaul_local.main import main

sys.exit(main())

"""`python -m outhaul_local`."""

import signal
import sys

# Until the command itself is ready for it, Ctrl-C just ends us: nothing was started yet, and a traceback out of the
# middle of an import tells nobody anything.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from outhaul_local.main import main  # noqa: E402 - after the line above

signal.signal(signal.SIGINT, signal.default_int_handler)
code = main()
# What there was to do is done and told. The interpreter still takes a moment to end, and a Ctrl-C in it would make an
# interrupted command of one that succeeded.
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.exit(code)

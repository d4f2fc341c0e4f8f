"""How much to try: a little in `make test`, much by `make fuzz`, which sets ``FUZZ_EXAMPLES``."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FEW = 60


def examples(few: int = FEW) -> settings:
    """At most that many examples, unless ``FUZZ_EXAMPLES`` says otherwise. A failure prints what replays it."""
    return settings(
        max_examples=int(os.environ.get("FUZZ_EXAMPLES") or few),
        deadline=None,  # a request to a real process takes what it takes on a busy machine
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )

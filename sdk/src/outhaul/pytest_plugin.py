"""The fixture ``outhaul`` for users' own tests: what was recorded, and what a consumer makes of it. No broker.

Imports nothing but pytest when pytest starts: a suite that does not ask for the fixture pays nothing for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from outhaul.testing import Harness


@pytest.fixture(name="outhaul")
def outhaul_harness() -> Harness:
    """Look at recorded messages and deliver them to a consumer, over the test's own database.

    ``outhaul.pending(conn, type=...)`` lists what waits to be sent; ``outhaul.deliver(consumer, message)`` handles a
    message through the real inbox. Both have async twins, ``pending_async`` and ``deliver_async``.
    """
    from outhaul.testing import Harness  # noqa: PLC0415 - loads the database driver, which only this fixture needs

    return Harness()

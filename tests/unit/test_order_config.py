from __future__ import annotations

import pytest

from outhaul.errors import ConfigurationError
from outhaul_order.config import OrderConfig

NEEDED = {
    "OUTHAUL_ORDER_DATABASE_URL": "postgresql://order@127.0.0.1/order",
    "OUTHAUL_AMQP_URL": "amqp://order:secret@127.0.0.1/%2F",
}


@pytest.mark.parametrize(("said", "days"), [(None, 30), ("1d", 1), ("36h", 2), ("365d", 365)])
def test_history_is_kept_in_whole_days_at_least_as_long_as_said(said: str | None, days: int) -> None:
    values = NEEDED if said is None else {**NEEDED, "OUTHAUL_SENDER_RETENTION": said}
    assert OrderConfig.from_environment(values).sender.history_days == days


def test_history_kept_for_less_than_a_day_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="OUTHAUL_SENDER_RETENTION"):
        OrderConfig.from_environment({**NEEDED, "OUTHAUL_SENDER_RETENTION": "1h"})


def test_a_lease_too_short_for_the_confirms_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match=r"OUTHAUL_SENDER_LEASE=.*must be at least 35"):
        OrderConfig.from_environment({**NEEDED, "OUTHAUL_SENDER_LEASE": "2s"})


def test_a_test_may_force_a_lease_too_short_and_is_warned() -> None:
    config = OrderConfig.from_environment({**NEEDED, "OUTHAUL_SENDER_LEASE": "60s", "OUTHAUL_TEST_SENDER_LEASE": "2s"})
    assert config.sender.lease_seconds == 2
    assert config.sender.least_lease_seconds == 1, "else nothing would ever be published under it"
    [warning] = config.warnings
    assert "OUTHAUL_TEST_SENDER_LEASE=2s is for tests alone" in warning
    with pytest.raises(ConfigurationError, match="OUTHAUL_TEST_SENDER_LEASE"):
        OrderConfig.from_environment({**NEEDED, "OUTHAUL_TEST_SENDER_LEASE": "soon"})


def test_a_lease_nobody_forced_leaves_the_confirm_deadline_to_every_row() -> None:
    config = OrderConfig.from_environment({**NEEDED, "OUTHAUL_SENDER_LEASE": "40s"})
    assert config.sender.least_lease_seconds == config.sender.confirm_timeout_seconds == 30

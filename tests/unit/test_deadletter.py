from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outhaul import deadletter
from outhaul.deadletter import Letter

AT = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)
LETTER = Letter(
    reason="exhausted",
    error="ValueError: no",
    failed=8,
    first_failed_at=AT,
    last_failed_at=AT,
    exchange="shop.events",
    routing_key="order.created",
    consumer="shipping",
)
DEATH = {
    "count": 1,
    "reason": "rejected",
    "queue": "shop.waybill",
    "time": datetime(2026, 3, 1, 12, 0, 0),  # noqa: DTZ001 - pika decodes AMQP timestamps without a zone; they are UTC
    "exchange": "shop.events",
    "routing-keys": ["order.created"],
}


def test_what_is_written_is_read_back() -> None:
    assert deadletter.read(LETTER.headers({})) == LETTER


def test_a_waiting_message_carries_no_reason_yet() -> None:
    headers = Letter(failed=1, exchange="e", routing_key="k", consumer="c").headers({})
    assert "x-outhaul-reason" not in headers
    assert headers["x-outhaul-failed"] == 1


def test_the_messages_own_headers_are_kept_and_the_brokers_are_not() -> None:
    headers = LETTER.headers({"tenant": "a", "x-death": [DEATH], "x-delivery-count": 3, "x-outhaul-force": True})
    assert headers["tenant"] == "a"
    assert headers["x-outhaul-force"] is True
    assert "x-death" not in headers
    assert "x-delivery-count" not in headers


def test_an_earlier_failures_headers_are_replaced() -> None:
    first = LETTER.headers({})
    second = Letter(failed=1, exchange="e", routing_key="k", consumer="c").headers(first)
    assert "x-outhaul-reason" not in second
    assert second["x-outhaul-failed"] == 1


def test_a_letter_with_x_death_alone_tells_what_the_broker_knows() -> None:
    letter = deadletter.read({"x-death": [DEATH]}, exchange="outhaul.dlx", routing_key="shop.waybill")
    assert letter.reason == "rejected"
    assert (letter.exchange, letter.routing_key) == ("shop.events", "order.created")
    assert letter.last_failed_at == datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
    assert letter.failed == 0


def test_after_a_delay_tier_the_original_route_is_the_headers() -> None:
    headers = Letter(failed=1, exchange="shop.events", routing_key="order.created").headers({})
    assert deadletter.origin_of(headers, "outhaul.retry", "shop.waybill") == ("shop.events", "order.created")
    assert deadletter.origin_of({}, "shop.events", "order.created") == ("shop.events", "order.created")


@pytest.mark.parametrize("value", ["yesterday", "0001-01-01T00:00:00+14:00", 7, None, ["2026-03-01"]])
def test_a_time_that_makes_no_sense_counts_as_none(value: object) -> None:
    letter = deadletter.read({"x-outhaul-first-failed-at": value})
    assert letter.first_failed_at is None
    assert "x-outhaul-first-failed-at" not in letter.headers({})


@pytest.mark.parametrize("value", [-1, True, "3", 2.5, None, 10**9, [], {}])
def test_a_count_that_makes_no_sense_counts_as_none(value: object) -> None:
    assert deadletter.failed_of({"x-outhaul-failed": value}) == 0


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.datetimes(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NAMES = [*deadletter.OUTHAUL_HEADERS, *deadletter.BROKER_HEADERS]


@given(st.dictionaries(st.sampled_from(NAMES) | st.text(), anything))
def test_reading_never_raises_whoever_wrote_the_headers(headers: dict[str, Any]) -> None:
    deadletter.read(headers).headers(headers)


@given(st.text(st.characters(codec=None), max_size=2000))
def test_any_error_text_fits_a_header_and_a_column(text: str) -> None:
    tidy = deadletter.tidy(text)
    tidy.encode()
    assert "\x00" not in tidy
    assert "\n" not in tidy
    assert len(tidy) <= 500 * len("\\U00000000")

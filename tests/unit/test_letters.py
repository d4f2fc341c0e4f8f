import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st

from letter_support import new_id
from outhaul import deadletter
from outhaul.tools.letters import DeadLetter, Filter, destination, from_delivery, is_too_old, redriven_headers

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def letter(body: bytes = b"{}", headers: dict[str, Any] | None = None, **properties: Any) -> DeadLetter:
    method = SimpleNamespace(delivery_tag=1, exchange="outhaul.dlx", routing_key="shop.waybill")
    return from_delivery(method, pika.BasicProperties(headers=headers, **properties), body)


def failed(hours_ago: float, reason: str = "rejected", **properties: Any) -> DeadLetter:
    at = NOW - timedelta(hours=hours_ago)
    return letter(headers=deadletter.Letter(reason=reason, last_failed_at=at).headers({}), **properties)


headers = st.dictionaries(
    st.sampled_from([*deadletter.OUTHAUL_HEADERS, "x-death", "other"]),
    st.one_of(st.none(), st.integers(), st.text(), st.lists(st.integers()), st.just([{"time": "x"}])),
)


@given(st.binary() | st.text().map(str.encode) | st.just(b"[" * 100_000), headers)
def test_whatever_lies_in_the_queue_can_be_read(body: bytes, found: dict[str, Any]) -> None:
    read = letter(body, found)
    json.dumps(read.payload())
    assert read.summary()["bytes"] == len(body)
    Filter(older_than_seconds=1).matches(read, NOW)


def test_the_bodys_id_wins_over_the_property() -> None:
    made = str(new_id())
    assert letter(json.dumps({"id": made}).encode(), message_id="other").message_id == made
    assert letter(b"not json", message_id="other").message_id == "other"
    assert letter(b"not json").message_id is None


def test_an_id_that_is_no_uuid7_is_none_the_inbox_could_know() -> None:
    assert letter(b"{}", message_id="x").id is None
    assert letter(b"{}", message_id="0b9cf7f4-74dd-4d1b-8e3f-bc5a3a8f33c6").id is None
    made = new_id()
    assert letter(b"{}", message_id=str(made)).id == made


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (Filter(), True),
        (Filter(reasons=("rejected", "exhausted")), True),
        (Filter(reasons=("crashed",)), False),
        (Filter(older_than_seconds=3600), True),
        (Filter(older_than_seconds=3 * 3600), False),
        (Filter(younger_than_seconds=3 * 3600), True),
        (Filter(younger_than_seconds=3600), False),
        (Filter(reasons=("rejected",), types=("other",)), False),
    ],
)
def test_a_letter_is_meant_when_every_part_of_the_filter_agrees(chosen: Filter, expected: bool) -> None:
    assert chosen.matches(failed(2), NOW) is expected


def test_a_letter_that_tells_no_time_matches_no_age() -> None:
    assert not Filter(older_than_seconds=1).matches(letter(), NOW)
    assert not Filter(younger_than_seconds=1).matches(letter(), NOW)


def test_ids_are_compared_in_any_case() -> None:
    made = str(new_id())
    assert Filter(ids=(made,)).matches(letter(message_id=made.upper()), NOW)


def test_a_redriven_message_carries_its_origin_and_no_failure() -> None:
    before = deadletter.Letter(
        reason="crashed", error="x", failed=8, exchange="shop.events", routing_key="order.created", consumer="waybill"
    ).headers({"tenant": "north"})
    marks = {"x-death": [{}], "x-delivery-count": 3, "CC": ["elsewhere"]}
    after = redriven_headers(letter(headers={**before, **marks}), force=False)
    assert after == {
        "tenant": "north",
        deadletter.EXCHANGE: "shop.events",
        deadletter.ROUTING_KEY: "order.created",
    }


def test_force_is_put_on_only_when_asked_for() -> None:
    forced = letter(headers={deadletter.FORCE: True})
    assert deadletter.FORCE not in redriven_headers(forced, force=False)
    assert redriven_headers(forced, force=True)[deadletter.FORCE] is True


def test_only_an_id_that_tells_its_time_can_be_too_old() -> None:
    old = letter(message_id=str(new_id(timedelta(days=40))))
    assert is_too_old(old, datetime.now(UTC) - timedelta(days=30))
    assert not is_too_old(old, datetime.now(UTC) - timedelta(days=50))
    assert not is_too_old(letter(message_id="x"), datetime.now(UTC))


def test_the_destination_is_one_queue_unless_the_origin_is_asked_for() -> None:
    died = letter(headers=deadletter.Letter(exchange="shop.events", routing_key="order.created").headers({}))
    route = {"queue": "shop.waybill", "retry_exchange": "outhaul.retry"}
    assert destination(died, **route, to_origin=False) == ("outhaul.retry", "shop.waybill")
    assert destination(died, **route, to_origin=True) == ("shop.events", "order.created")

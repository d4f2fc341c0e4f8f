from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from letter_support import new_id
from outhaul import deadletter
from outhaul.tools.letters import DeadLetter
from outhaul.tools.trace import Facts, Looked, State, Story, tell

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
ID = new_id()
EVERYWHERE = Looked(outbox=True, inbox=True, waiting=0, all_letters=True, now=NOW)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def pending(**parts: Any) -> Any:
    usual = {
        "exchange": "shop.events",
        "routing_key": "order.created",
        "type": "t",
        "aggregate_id": "order-1",
        "created_at": ago(300),
        "available_at": ago(300),
        "leased": False,
        "later": False,
        "attempts": 0,
        "status": "pending",
        "park_reason": None,
        "last_error": None,
    }
    return SimpleNamespace(**{**usual, **parts})


def sent(seconds_ago: float = 200, attempts: int = 0) -> Any:
    return SimpleNamespace(**{**vars(pending()), "sent_at": ago(seconds_ago), "attempts": attempts})


def consumed(seconds_ago: float = 100) -> Any:
    return SimpleNamespace(consumer="waybill", processed_at=ago(seconds_ago))


def failing(**parts: Any) -> Any:
    usual = {
        "consumer": "waybill",
        "started": 0,
        "failed": 2,
        "first_failed_at": ago(90),
        "last_failed_at": ago(50),
        "last_error": "TimeoutError: carrier",
        "updated_at": ago(40),
    }
    return SimpleNamespace(**{**usual, **parts})


def letter() -> DeadLetter:
    told = deadletter.Letter(reason="exhausted", error="TimeoutError: carrier", failed=8, last_failed_at=ago(20))
    return DeadLetter(
        tag=1,
        message_id=str(ID),
        type="t",
        subject="order-1",
        letter=told,
        properties=None,
        headers={},
        body=b"{}",
    )


def story(looked: Looked = EVERYWHERE, **facts: Any) -> Story:
    return tell(Facts(message_id=ID, **facts), looked)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({"pending": pending()}, State.WAITING),
        ({"pending": pending(later=True)}, State.WAITING),
        ({"pending": pending(leased=True, later=True)}, State.SENDING),
        ({"pending": pending(leased=True, later=False)}, State.WAITING),
        ({"pending": pending(status="parked", park_reason="refused")}, State.PARKED),
        ({"sent": sent(5)}, State.SENT),
        ({"sent": sent(200)}, State.LOST),
        ({"sent": sent(), "failing": [failing()]}, State.FAILING),
        ({"sent": sent(), "consumed": [consumed()]}, State.DONE),
        ({"sent": sent(), "failing": [failing()], "consumed": [consumed()]}, State.DONE),
        ({"sent": sent(), "letters": [letter()]}, State.DEAD),
        ({"pending": pending(), "consumed": [consumed()]}, State.DONE),
        ({}, State.UNKNOWN),
    ],
)
def test_the_facts_decide_the_state(facts: dict[str, Any], state: State) -> None:
    assert story(**facts).state is state


@pytest.mark.parametrize(
    "looked",
    [
        Looked(outbox=True, inbox=False, waiting=0, all_letters=True, now=NOW),
        Looked(outbox=True, inbox=True, waiting=None, all_letters=True, now=NOW),
        Looked(outbox=True, inbox=True, waiting=3, all_letters=True, now=NOW),
        Looked(outbox=True, inbox=True, waiting=0, all_letters=False, now=NOW),
    ],
    ids=["inbox not asked", "depth unknown", "queue not empty", "letters unread"],
)
def test_nothing_is_called_lost_before_everything_was_looked_at(looked: Looked) -> None:
    assert story(looked, sent=sent()).state is State.SENT


def test_steps_stand_in_the_order_of_time_with_the_present_last() -> None:
    told = story(sent=sent(), failing=[failing(started=1)], letters=[letter()])
    moments = [step.at for step in told.steps if step.at is not None]
    assert moments == sorted(moments)
    assert [step.place for step in told.steps] == ["outbox", "broker", "consumer", "consumer", "consumer", "dlq"]


def test_what_needs_somebody_says_what_to_do() -> None:
    assert "redrive" in story(letters=[letter()]).remedy
    assert "resend --id" in story(pending=pending(status="parked")).remedy
    assert "audit" in story(sent=sent()).remedy


def test_why_a_row_waits_is_told() -> None:
    [_, now] = story(pending=pending(later=True, last_error="312 NO_ROUTE")).steps
    assert "put off until" in now.text
    assert "312 NO_ROUTE" in now.text


def test_an_unknown_id_from_before_the_history_is_told_so() -> None:
    forgotten = Looked(outbox=True, inbox=True, forgotten_before=datetime.now(UTC) + timedelta(days=1))
    assert "the history was dropped" in story(forgotten).remedy
    assert "--outbox-dsn" in story(Looked(inbox=True)).remedy
    assert "rolled back" in story().remedy

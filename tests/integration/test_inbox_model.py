"""Any deliveries, in any order, with any failures: each message has one effect or one named end, never both."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consuming import TYPE, Database, delivery, prepare
from outhaul import Consumer, Reject, Retry
from outhaul.consuming.delivery import Delivery, Outcome, Result
from outhaul.errors import InvalidMessage
from outhaul.events import Event

ATTEMPTS = 3


@dataclass(frozen=True)
class Plan:
    """What a message does at its first runs; after these it goes well."""

    deeds: tuple[str, ...]
    redelivered: bool


plans = st.builds(
    Plan,
    deeds=st.lists(st.sampled_from(["raise", "reject", "divide", "swallow", "invalid"]), max_size=4).map(tuple),
    redelivered=st.booleans(),
)


@pytest.fixture
def database(inbox_dsn: str) -> Database:
    return prepare(inbox_dsn)


def fail(deed: str, tx: psycopg.Connection[Any]) -> None:
    """Go wrong in that way; or not at all."""
    match deed:
        case "raise":
            raise ValueError("no")
        case "reject":
            raise Reject("no")
        case "invalid":
            raise InvalidMessage("mine", "no")
        case "divide":
            tx.execute("SELECT 1 / 0")
        case "swallow":
            with contextlib.suppress(psycopg.Error):
                tx.execute("SELECT 1 / 0")


def consumer_of(messages: list[Plan], *, batch: bool) -> Consumer:
    consumer = Consumer(f"model-{uuid4()}", queue="q", retry=Retry(delays=(1,), max_attempts=ATTEMPTS))

    def handle(message: Event, tx: psycopg.Connection[Any]) -> None:
        number = message.data["order"]
        tx.execute("INSERT INTO effects (number, note) VALUES (%s, %s)", (number, consumer.name))
        failures = message.headers.get("x-outhaul-failed", 0)
        fail(dict(enumerate(messages[number].deeds)).get(failures, ""), tx)

    def handle_all(events: list[Event], tx: psycopg.Connection[Any]) -> None:
        for event in events:
            handle(event, tx)

    if batch:
        consumer.batch_handler(TYPE)(handle_all)
    else:
        consumer.handler(TYPE)(handle)
    return consumer


def number_of(found: Delivery) -> int:
    return int(json.loads(found.body)["data"]["order"])


def come_again(outcome: Outcome, *, redelivered: bool) -> Delivery:
    """As it comes back from its delay tier."""
    assert outcome.letter is not None
    return outcome.delivery._replace(headers=outcome.letter.headers(outcome.delivery.headers), redelivered=redelivered)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), messages=st.lists(plans, min_size=1, max_size=8), batch=st.booleans())
def test_each_message_has_one_effect_or_one_named_end(
    database: Database, data: st.DataObject, messages: list[Plan], *, batch: bool
) -> None:
    consumer = consumer_of(messages, batch=batch)
    waiting = [delivery({"order": n}, redelivered=plan.redelivered) for n, plan in enumerate(messages)]
    done: list[Delivery] = []
    ends: dict[int, list[str]] = {n: [] for n in range(len(messages))}
    with database.connect() as conn:
        while waiting:
            outcomes = consumer.process(conn, data.draw(st.permutations(waiting)))
            waiting = []
            for outcome in outcomes:
                if outcome.result is Result.RETRIED:
                    waiting.append(come_again(outcome, redelivered=data.draw(st.booleans())))
                else:
                    ends[number_of(outcome.delivery)].append(outcome.letter.reason if outcome.letter else "done")
            done += [outcome.delivery for outcome in outcomes if outcome.result is Result.DONE]
            doubles = data.draw(st.lists(st.sampled_from(done), max_size=2)) if done else []
            assert {outcome.result for outcome in consumer.process(conn, doubles)} <= {Result.DUPLICATE}
    effects = Counter(row[0] for row in database.query("SELECT number FROM effects WHERE note = %s", consumer.name))
    for number, plan in enumerate(messages):
        assert ends[number] == [expected_end(plan)], plan
        assert effects[number] == (1 if ends[number] == ["done"] else 0), plan
    assert database.query("SELECT count(*) FROM deliveries WHERE consumer = %s", consumer.name) == [(0,)]


def expected_end(plan: Plan) -> str:
    """Told by hand: the first permanent failure ends it, three others exhaust it, else it is done."""
    for failed, deed in enumerate(plan.deeds, start=1):
        if deed == "reject":
            return "rejected"
        if deed == "invalid":
            return "mine"
        if failed == ATTEMPTS:
            return "exhausted"
    return "done"

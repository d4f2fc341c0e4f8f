"""One message's way through real parts, each turn of it followed by the command."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cli_support import answer, outhaul
from consuming import QUEUE, TYPE, Shop, body, message_id, opened_shop
from outhaul import Message, Outbox, Reject
from outhaul.cli.exit_codes import FINDING, FINE
from outhaul.deadletter import Reason
from support import BrokerUnderTest, poll

Connection = psycopg.Connection[Any]


@pytest.fixture
def shop(broker: BrokerUnderTest, make_database: Callable[..., str]) -> Iterator[Shop]:
    with opened_shop(broker, make_database(("outbox", "inbox"))) as opened:
        yield opened


@pytest.fixture
def env(shop: Shop, tmp_path: Path) -> dict[str, str]:
    declared = tmp_path / "shop.toml"
    declared.write_text(
        f'[[consumers]]\nqueue = "{QUEUE}"\nretry_delays = ["200ms", "400ms"]\n'
        'bindings = [{exchange = "shop.events", routing_key = "order.created"}]\n'
    )
    return {
        "OUTHAUL_OUTBOX_DATABASE_URL": shop.database.dsn,
        "OUTHAUL_INBOX_DATABASE_URL": shop.database.dsn,
        "OUTHAUL_AMQP_URL": shop.broker.amqp_url,
        "OUTHAUL_MANAGEMENT_URL": shop.broker.management_url,
        "OUTHAUL_TOPOLOGY": str(declared),
    }


def refuse(_message: Any, _tx: Connection) -> None:
    raise Reject("no courier serves this address")


def note(message: Any, tx: Connection) -> None:
    tx.execute("INSERT INTO effects (number) VALUES (%s)", (message.data["order"],))


def state(env: dict[str, str], identifier: str) -> str:
    [story] = answer("trace", identifier, **env)["stories"]
    found: str = story["state"]
    return found


def test_a_refused_message_is_followed_from_its_row_to_its_redriven_effect(shop: Shop, env: dict[str, str]) -> None:
    outbox = Outbox(exchange="shop.events", source="shop")
    with psycopg.connect(shop.database.dsn) as conn:
        outbox.add(conn, Message(type=TYPE, routing_key="order.created", aggregate_id="order-1", data={"order": 1}))
    assert state(env, "order-1") == "waiting"

    assert outhaul("resend", **env).exit_code == FINE
    assert state(env, "order-1") == "sent"

    with shop.consumer(refuse):
        poll(lambda: shop.depth(f"{QUEUE}.dlq") == 1, what="the dead letter")
    assert state(env, "order-1") == "dead"
    [letter] = answer("dlq", "list", **env)["letters"]
    assert (letter["reason"], letter["subject"]) == (Reason.REJECTED, "order-1")
    assert "no courier" in letter["error"]

    with shop.consumer(note):
        told = answer("dlq", "redrive", "--id", letter["message_id"], "--yes", **env)
        assert told["counts"]["moved"] == 1
        poll(lambda: shop.database.effects() == [1], what="the effect")
        poll(lambda: state(env, "order-1") == "done", what="the end of the story")
    assert outhaul("trace", "order-1", **env).exit_code == FINE
    [story] = answer("trace", "order-1", **env)["stories"]
    assert [step["place"] for step in story["steps"]] == ["outbox", "broker", "inbox"]

    def clean() -> bool:
        told = answer("audit", "--consumer", "shipping", "--grace", "10s", **env)
        return bool(told["clean"] and told["matched"] == 1)

    poll(clean, what="a clean audit")


def test_a_message_that_used_up_its_attempts_gets_all_of_them_again(shop: Shop, env: dict[str, str]) -> None:
    runs = 0

    def fail(_message: Any, _tx: Connection) -> None:
        nonlocal runs
        runs += 1
        raise RuntimeError("the carrier does not answer")

    shop.send(1)
    with shop.consumer(fail):
        poll(lambda: shop.depth(f"{QUEUE}.dlq") == 1, what="the dead letter")
        assert runs == 3
        assert answer("dlq", "redrive", "--yes", **env)["counts"]["moved"] == 1
        poll(lambda: runs == 6, what="three more attempts")
        poll(lambda: shop.depth(f"{QUEUE}.dlq") == 1, what="the dead letter again")
    [letter] = answer("dlq", "list", **env)["letters"]
    assert (letter["reason"], letter["failed"]) == (Reason.EXHAUSTED, 3)
    assert (letter["exchange"], letter["routing_key"]) == ("shop.events", "order.created")


def test_a_message_older_than_the_inbox_remembers_is_done_only_by_force(shop: Shop, env: dict[str, str]) -> None:
    old = message_id(int(timedelta(days=31).total_seconds() * 1000))
    _, encoded = body({"order": 7}, event_id=old)
    shop.publish(encoded)
    with shop.consumer(note):
        poll(lambda: shop.depth(f"{QUEUE}.dlq") == 1, what="the dead letter")
        [letter] = answer("dlq", "list", **env)["letters"]
        assert letter["reason"] == Reason.TOO_OLD
        left = outhaul("dlq", "redrive", "--yes", **env)
        assert left.exit_code == FINDING
        assert "--force" in left.stdout
        assert answer("dlq", "redrive", "--yes", "--force", **env)["counts"]["moved"] == 1
        poll(lambda: shop.database.effects() == [7], what="the effect")


def test_a_poison_message_may_crash_anew_after_a_redrive(shop: Shop, env: dict[str, str]) -> None:
    shop.send(1)
    with shop.consumer(refuse):
        poll(lambda: shop.depth(f"{QUEUE}.dlq") == 1, what="the dead letter")
    [letter] = answer("dlq", "list", **env)["letters"]
    shop.database.query(
        "INSERT INTO deliveries (consumer, message_id, started) VALUES ('shipping', %s, 5)", letter["message_id"]
    )
    assert answer("dlq", "redrive", "--yes", **env)["counts"]["moved"] == 1
    assert shop.database.count("deliveries") == 0
    with shop.consumer(note):
        poll(lambda: shop.database.effects() != [], what="the effect")

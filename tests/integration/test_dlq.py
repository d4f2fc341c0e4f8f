import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pika
import psycopg
import pytest

from letter_support import DLQ, QUEUE, Shop, new_id, open_shop, rows
from outhaul import deadletter
from outhaul.database import runs
from outhaul.errors import BrokerUnreachable, ConfigurationError, TopologyError
from outhaul.settings import BrokerSettings
from outhaul.tools.dlq import DeadLetterQueue
from outhaul.tools.letters import Filter
from outhaul.tools.redrive import Order, discard, redrive
from support import BrokerUnderTest, poll

Connection = psycopg.Connection[Any]


@pytest.fixture
def shop(broker: BrokerUnderTest) -> Iterator[Shop]:
    with open_shop(broker) as found:
        yield found


@pytest.fixture
def inbox(inbox_dsn: str) -> Iterator[Connection]:
    with psycopg.connect(inbox_dsn, autocommit=True) as conn:
        yield conn


def opened(shop: Shop, name: str = DLQ, **more: Any) -> DeadLetterQueue:
    return DeadLetterQueue(BrokerSettings.parse(shop.broker.amqp_url), name, **more)


def order(**parts: Any) -> Order:
    return Order(**{"queue": QUEUE, "rate_per_second": 1000.0, **parts})


def seen_ids(shop: Shop) -> list[str | None]:
    with opened(shop) as letters:
        return [letter.message_id for letter in letters.letters()]


def test_fifty_listings_lose_nothing_and_keep_the_order(shop: Shop) -> None:
    sent = [str(shop.letter()) for _ in range(7)]
    for _ in range(50):
        # A listing that has just ended may still be giving back.
        poll(lambda: seen_ids(shop) == sent, what="all letters in their order")
    assert shop.ids(DLQ, 7) == set(sent)


def test_a_letter_tells_why_it_died(shop: Shop) -> None:
    message_id = shop.letter(reason="exhausted", subject="order-7")
    with opened(shop) as letters:
        [letter] = letters.letters()
    assert letter.message_id == str(message_id)
    assert letter.subject == "order-7"
    assert (letter.letter.reason, letter.letter.failed) == ("exhausted", 3)
    assert (letter.letter.exchange, letter.letter.routing_key) == ("shop.events", "order.created")


def test_a_letter_of_the_brokers_own_making_is_understood(shop: Shop) -> None:
    arguments = {"x-queue-type": "quorum", "x-dead-letter-exchange": "", "x-dead-letter-routing-key": DLQ}
    shop.channel.queue_declare("shop.mortal", durable=True, arguments=arguments)
    shop.channel.queue_bind("shop.mortal", "shop.events", "order.created")
    message_id = str(new_id())
    shop.channel.basic_publish("shop.events", "order.created", b"{}", pika.BasicProperties(message_id=message_id))
    method = poll(lambda: shop.channel.basic_get("shop.mortal")[0], what="the message")
    shop.channel.basic_reject(method.delivery_tag, requeue=False)
    poll(lambda: shop.depth() == 1, what="the letter")
    with opened(shop) as letters:
        [letter] = letters.letters()
    assert letter.message_id == message_id
    assert letter.letter.reason == "rejected"
    assert (letter.letter.exchange, letter.letter.routing_key) == ("shop.events", "order.created")
    assert letter.letter.last_failed_at is not None


def test_a_redriven_message_keeps_its_id_and_starts_anew(shop: Shop, inbox: Connection) -> None:
    message_id = shop.letter()
    inbox.execute("INSERT INTO deliveries (consumer, message_id, started) VALUES ('waybill', %s, 4)", (message_id,))
    with opened(shop) as letters:
        moved = redrive(letters, inbox, order(), run_id="decision-1", actor="tester")
    assert moved.counts["moved"] == 1
    [(_, properties, body)] = shop.take_all(QUEUE, 1)
    assert properties.message_id == str(message_id)
    assert str(message_id).encode() in body
    assert properties.headers["tenant"] == "north"
    assert properties.headers[deadletter.ROUTING_KEY] == "order.created"
    gone = {deadletter.FAILED, deadletter.REASON, deadletter.ERROR, "x-death"}
    assert not gone & set(properties.headers)
    assert inbox.execute("SELECT count(*) FROM deliveries").fetchone() == (0,)
    assert shop.take(DLQ) is None
    run = runs.get(inbox, "decision-1")
    assert run is not None
    assert (run.state, run.actor, run.counts["moved"]) == ("done", "tester", 1)


def test_the_same_decision_twice_is_carried_out_once(shop: Shop, inbox: Connection) -> None:
    shop.letter()
    with opened(shop) as letters:
        redrive(letters, inbox, order(), run_id="decision-1")
    shop.letter()
    with opened(shop) as letters:
        again = redrive(letters, inbox, order(), run_id="decision-1")
    assert again.done_before
    assert again.counts["moved"] == 1
    shop.take_all(QUEUE, 1)
    shop.take_all(DLQ, 1)


def test_an_id_cannot_stand_for_two_decisions(shop: Shop, inbox: Connection) -> None:
    with opened(shop) as letters:
        redrive(letters, inbox, order(limit=5), run_id="decision-1")
        with pytest.raises(ConfigurationError, match="another request"):
            redrive(letters, inbox, order(limit=6), run_id="decision-1")


def test_a_dry_run_moves_and_records_nothing(shop: Shop, inbox: Connection) -> None:
    message_id = shop.letter()
    with opened(shop) as letters:
        moved = redrive(letters, inbox, order(dry_run=True), run_id="decision-1")
    assert [letter.message_id for letter in moved.examples] == [str(message_id)]
    assert runs.get(inbox, "decision-1") is None
    assert shop.ids(DLQ, 1) == {str(message_id)}


def test_the_filter_chooses_and_the_rest_stays(shop: Shop, inbox: Connection) -> None:
    shop.letter(reason="rejected")
    meant = shop.letter(reason="exhausted")
    with opened(shop) as letters:
        moved = redrive(letters, inbox, order(filter=Filter(reasons=("exhausted",))))
    assert moved.counts["moved"] == 1
    assert shop.ids(QUEUE, 1) == {str(meant)}
    shop.take_all(DLQ, 1)


def test_the_limit_bounds_what_is_moved(shop: Shop, inbox: Connection) -> None:
    for _ in range(5):
        shop.letter()
    with opened(shop) as letters:
        moved = redrive(letters, inbox, order(limit=2))
    assert moved.counts["moved"] == 2
    shop.take_all(QUEUE, 2)
    shop.take_all(DLQ, 3)


def test_the_rate_is_kept(shop: Shop, inbox: Connection) -> None:
    for _ in range(6):
        shop.letter()
    with opened(shop) as letters:
        row = inbox.execute("SELECT clock_timestamp()").fetchone()
        redrive(letters, inbox, order(rate_per_second=20.0))
        after = inbox.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    assert after is not None
    assert (after[0] - row[0]).total_seconds() >= 0.25


def test_letters_that_fail_at_once_do_not_keep_a_run_going(shop: Shop, inbox: Connection) -> None:
    # Every message that reaches the queue is dead-lettered again, as a consumer that rejects all would do.
    shop.channel.queue_unbind(QUEUE, "outhaul.retry", QUEUE)
    shop.channel.queue_bind(DLQ, "outhaul.retry", QUEUE)
    for _ in range(4):
        shop.letter()
    with opened(shop) as letters:
        moved = redrive(letters, inbox, order())
    assert moved.counts["moved"] == 4
    assert moved.counts["came_back"] >= 1
    shop.take_all(DLQ, 4)


def test_a_message_that_nobody_takes_stays_a_letter(broker: BrokerUnderTest, inbox: Connection) -> None:
    with open_shop(broker, bound=False) as shop:
        message_id = shop.letter()
        with opened(shop) as letters:
            moved = redrive(letters, inbox, order(), run_id="decision-1")
        assert moved.counts["moved"] == 0
        assert moved.counts["not_taken"] == 1
        assert "no queue is bound" in moved.problem
        run = runs.get(inbox, "decision-1")
        assert run is not None
        assert (run.state, run.detail) == ("failed", moved.problem)
        # Mended, the same decision is carried out.
        shop.channel.queue_bind(QUEUE, "outhaul.retry", QUEUE)
        with opened(shop) as letters:
            redrive(letters, inbox, order(), run_id="decision-1")
        assert shop.ids(QUEUE, 1) == {str(message_id)}


def test_redrive_to_the_origin_uses_the_first_route(shop: Shop, inbox: Connection) -> None:
    shop.letter()
    with opened(shop) as letters:
        redrive(letters, inbox, order(to_origin=True))
    [(method, _, _)] = shop.take_all(QUEUE, 1)
    assert (method.exchange, method.routing_key) == ("shop.events", "order.created")


def test_a_letter_older_than_the_inbox_remembers_needs_force(shop: Shop, inbox: Connection) -> None:
    inbox.execute("INSERT INTO inbox_consumers (consumer, retention_days) VALUES ('waybill', 30)")
    shop.letter(new_id(timedelta(days=31)))
    with opened(shop) as letters:
        moved = redrive(letters, inbox, order())
        assert (moved.counts["moved"], moved.counts["too_old"]) == (0, 1)
    with opened(shop) as letters:
        moved = redrive(letters, inbox, order(force=True))
    assert moved.counts["moved"] == 1
    [(_, properties, _)] = shop.take_all(QUEUE, 1)
    assert properties.headers[deadletter.FORCE] is True


def test_a_letter_that_does_not_say_whose_it_was_starts_anew_all_the_same(shop: Shop, inbox: Connection) -> None:
    inbox.execute("INSERT INTO inbox_consumers (consumer, retention_days) VALUES ('waybill', 10)")
    old = shop.letter(new_id(timedelta(days=11)), headers={})
    recent = shop.letter(headers={})
    for message_id in (old, recent):
        inbox.execute("INSERT INTO deliveries (consumer, message_id, started) VALUES ('waybill', %s, 4)", (message_id,))
    with opened(shop) as letters:
        moved = redrive(letters, inbox, order())
    assert (moved.counts["moved"], moved.counts["too_old"]) == (1, 1)
    assert shop.ids(QUEUE, 1) == {str(recent)}
    assert inbox.execute("SELECT message_id FROM deliveries").fetchall() == [(old,)]


def test_an_ended_run_goes_on_where_it_was(shop: Shop, inbox: Connection) -> None:
    for _ in range(4):
        shop.letter()

    class Stopped(Exception):
        pass

    def stop_after_two(counts: Any) -> None:
        if counts["moved"] == 2:
            raise Stopped

    with opened(shop) as letters, pytest.raises(Stopped):
        redrive(letters, inbox, order(limit=3), run_id="decision-1", progress=stop_after_two)
    run = runs.get(inbox, "decision-1")
    assert run is not None
    assert run.state == "failed"
    with opened(shop) as letters:
        moved = redrive(letters, inbox, order(limit=3), run_id="decision-1")
    assert moved.counts["moved"] == 3
    shop.take_all(QUEUE, 3)
    shop.take_all(DLQ, 1)


def test_a_connection_lost_in_the_middle_loses_no_letter(shop: Shop, inbox: Connection) -> None:
    sent = {str(shop.letter()) for _ in range(20)}

    def cut(counts: Any) -> None:
        if counts["moved"] == 5:
            letters._connection._impl._terminate_stream(pika.exceptions.StreamLostError("cut"))

    letters = opened(shop)
    with letters, pytest.raises(BrokerUnreachable):
        redrive(letters, inbox, order(), progress=cut)
    there: set[str] = set()

    def all_there() -> bool:
        for queue in (QUEUE, DLQ):
            while (message := shop.take(queue)) is not None:
                there.add(message[1].message_id)
        return there == sent

    poll(all_there, what="every letter or its message")


def test_two_redrives_at_once_move_each_letter_once(shop: Shop, inbox_dsn: str) -> None:
    sent = {str(shop.letter()) for _ in range(30)}

    def work() -> None:
        with psycopg.connect(inbox_dsn, autocommit=True) as conn, opened(shop) as letters:
            redrive(letters, conn, order())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert shop.ids(QUEUE, 30) == sent


def test_a_discarded_letter_is_gone_and_on_record(shop: Shop, inbox: Connection, inbox_dsn: str) -> None:
    message_id = shop.letter()
    with opened(shop) as letters:
        moved = discard(letters, inbox, order(reason="test order"), run_id="decision-2", actor="tester")
    assert moved.counts["moved"] == 1
    assert shop.take(DLQ) is None
    [(request, detail)] = rows(inbox_dsn, "SELECT request, detail FROM runs WHERE kind = 'dlq-discard.letters'")
    assert detail == "test order"
    assert [(entry["message_id"], len(entry["sha256"])) for entry in request["letters"]] == [(str(message_id), 64)]
    [run] = runs.recent(inbox)
    assert (run.run_id, run.state, run.request["reason"]) == ("decision-2", "done", "test order")


def test_a_discard_without_a_reason_is_refused(shop: Shop, inbox: Connection) -> None:
    shop.letter()
    with opened(shop) as letters, pytest.raises(ConfigurationError, match="reason"):
        discard(letters, inbox, order(reason=" "))
    shop.take_all(DLQ, 1)


def test_a_letter_with_hostile_text_can_be_discarded(shop: Shop, inbox: Connection) -> None:
    shop.letter(body=b'{"id": "\\u0000\\ud800", "type": "\\u0000"}', headers={"x-outhaul-reason": "malformed"})
    shop.letter(body=b"\xff\x00", headers={})
    with opened(shop) as letters:
        assert discard(letters, inbox, order(reason="garbage")).counts["moved"] == 2


def test_a_missing_queue_is_named(shop: Shop, inbox: Connection) -> None:
    with pytest.raises(TopologyError, match=r"shop\.nothing\.dlq"), opened(shop, "shop.nothing.dlq"):
        pass
    with opened(shop) as letters, pytest.raises(TopologyError, match=r"shop\.nothing"):
        redrive(letters, inbox, order(queue="shop.nothing"))


def test_refused_credentials_are_told_with_their_remedy(shop: Shop) -> None:
    wrong = BrokerSettings.parse(
        shop.broker.amqp_url.replace("//", "//nobody:wrong@", 1).replace("@guest:guest", "", 1)
    )
    with pytest.raises(BrokerUnreachable, match="check user and password"), DeadLetterQueue(wrong, DLQ):
        pass

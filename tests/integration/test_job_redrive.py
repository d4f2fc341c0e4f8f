from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from job_support import Job
from letter_support import DLQ, QUEUE, Shop, open_shop, rows
from outhaul.tools.letters import Filter
from outhaul_operator import outcomes
from outhaul_operator.requests import RedriveRun
from support import BrokerUnderTest, poll

ALL = RedriveRun(queue=QUEUE, consumer="waybill", rate_per_second=10_000)
RECORDED = "SELECT state, kind, actor, counts FROM runs WHERE kind NOT LIKE '%%.letters'"


@pytest.fixture
def shop(broker: BrokerUnderTest) -> Iterator[Shop]:
    with open_shop(broker) as found:
        yield found


@pytest.fixture
def job(inbox_dsn: str, broker: BrokerUnderTest, tmp_path: Path) -> Job:
    """A Job that moves every letter back."""
    return Job(ALL, inbox_dsn, broker.amqp_url, tmp_path, run_id="redrive-0a1b2c3d-g1")


def asked(job: Job, **changes: Any) -> Job:
    assert isinstance(job.request, RedriveRun)
    return replace(job, request=replace(job.request, **changes))


def test_letters_are_moved_back_once_and_on_record(job: Job, shop: Shop) -> None:
    sent = {str(shop.letter()) for _ in range(30)}
    code, report, _ = job.run()
    assert (code, report.counts["moved"]) == (outcomes.DONE, 30)
    assert shop.ids(QUEUE, 30) == sent
    [(state, kind, actor, counts)] = rows(job.database, RECORDED)
    assert (state, kind, actor, counts["moved"]) == ("done", "dlq-redrive", "Resend default/again", 30)
    shop.letter()
    code, report, _ = job.run()
    assert (code, report.done_before, report.counts["moved"]) == (outcomes.DONE, True, 30)
    shop.take_all(DLQ, 1)


def test_a_dry_run_tells_what_it_would_move_and_moves_nothing(job: Job, shop: Shop) -> None:
    first = str(shop.letter(reason="exhausted"))
    shop.letter(reason="rejected")
    chosen = Filter(reasons=("exhausted",))
    code, report, _ = asked(job, dry_run=True, filter=chosen).run()
    assert (code, report.counts["matched"]) == (outcomes.DONE, 1)
    assert f"{first} (exhausted)" in report.message
    assert rows(job.database, RECORDED) == []
    shop.take_all(DLQ, 2)


def test_letters_are_discarded_with_their_reason_on_record(job: Job, shop: Shop) -> None:
    worthless = str(shop.letter(reason="malformed"))
    kept = str(shop.letter(reason="exhausted"))
    discarding = asked(job, discard_reason="sent by a load test", filter=Filter(reasons=("malformed",)))
    code, report, _ = discarding.run()
    assert (code, report.counts["moved"]) == (outcomes.DONE, 1)
    [(detail, request)] = rows(job.database, "SELECT detail, request FROM runs WHERE kind = 'dlq-discard.letters'")
    assert detail == "sent by a load test"
    assert [letter["message_id"] for letter in request["letters"]] == [worthless]
    assert shop.ids(DLQ, 1) == {kept}


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_job_ended_halfway_and_started_again_moves_every_letter(how: str, job: Job, shop: Shop) -> None:
    sent = {str(shop.letter()) for _ in range(120)}
    slow = asked(job, rate_per_second=60).start()
    poll(lambda: shop.depth(QUEUE) > 5, what="the first letters to be moved", seconds=20)
    if how == "kill":
        slow.kill()
    else:
        slow.stop()
        code, report, _ = slow.end(seconds=20)
        assert (code, report.reason) == (outcomes.OUTAGE, "Stopped")
        assert 0 < report.counts["moved"] < 120
        assert rows(job.database, RECORDED)[0][0] == "failed"
    poll(lambda: shop.depth() + shop.depth(QUEUE) >= 120, what="letters to be given back")
    code, report, _ = asked(job, rate_per_second=10_000).run()
    assert code == outcomes.DONE
    arrived = [str(properties.message_id) for _, properties, _ in taken(shop)]
    assert set(arrived) == sent
    # Killed between confirm and ack, a letter is there twice; the inbox absorbs it.
    assert len(arrived) <= 121
    assert shop.depth() == 0


def taken(shop: Shop) -> list[tuple[Any, Any, bytes]]:
    """Everything in the queue."""
    return shop.take_all(QUEUE, shop.depth(QUEUE))


def test_two_at_once_move_each_letter_once(job: Job, shop: Shop) -> None:
    sent = {str(shop.letter()) for _ in range(100)}
    other = replace(job)
    job.start()
    other.start()
    assert [each.end()[0] for each in (job, other)] == [outcomes.DONE, outcomes.DONE]
    poll(lambda: shop.depth() + shop.depth(QUEUE) == 100)
    # Letters that one held while the other came to the end are there for the next.
    replace(job, run_id="redrive-0a1b2c3d-g2").run()
    assert shop.ids(QUEUE, 100) == sent


def test_a_discard_that_cannot_go_on_record_counts_nothing_as_done(job: Job, shop: Shop) -> None:
    for _ in range(5):
        shop.letter()
    with psycopg.connect(job.database) as conn:
        # It ends where the letters are read and not yet on record.
        conn.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN IF NEW.kind LIKE '%.letters' THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$"
        )
        conn.execute("CREATE TRIGGER refuse BEFORE INSERT ON runs FOR EACH ROW EXECUTE FUNCTION refuse()")
    code, report, _ = asked(job, discard_reason="worthless").run()
    assert (code, report.counts.get("moved", 0)) == (outcomes.OUTAGE, 0)
    assert rows(job.database, RECORDED)[0][3]["moved"] == 0
    shop.take_all(DLQ, 5)


def test_a_queue_that_is_not_there_is_hopeless_and_named(job: Job, broker: BrokerUnderTest) -> None:
    code, report, _ = job.run()
    assert (code, report.reason) == (outcomes.NOT_TAKEN, "TopologyMissing")
    assert DLQ in report.message


def test_a_message_the_broker_does_not_take_stays_and_is_tried_again(job: Job, broker: BrokerUnderTest) -> None:
    with open_shop(broker, bound=False) as shop:
        shop.letter()
        code, report, _ = job.run()
        assert (code, report.reason) == (outcomes.OUTAGE, "NotTaken")
        assert "no queue is bound" in report.message
        poll(lambda: shop.depth() == 1)
        shop.channel.queue_bind(QUEUE, "outhaul.retry", QUEUE)
        assert job.run()[1].counts["moved"] == 1
        shop.take_all(QUEUE, 1)


def test_a_database_without_the_tables_is_hopeless(job: Job, shop: Shop, postgres_url: str) -> None:
    shop.letter()
    code, report, _ = replace(job, database=postgres_url).run()
    assert (code, report.reason) == (outcomes.SCHEMA_MISSING, "SchemaMissing")
    shop.take_all(DLQ, 1)


DOCUMENT = ALL.document()


@pytest.mark.parametrize(
    "change",
    [
        {"limit": 0},
        {"limit": "5"},
        {"limit": True},
        {"rate_per_second": 0},
        {"rate_per_second": 0.5},
        {"dry_run": "false"},
        {"dry_run": 0},
        {"command": "rm"},
        {"filter": {"reasons": "exhausted"}},
        {"filter": {"reasons": [1]}},
        {"filter": {"older_than_seconds": "1h"}},
        {"filter": {"regex": ".*"}},
        {"filter": None},
        {"queue": 7},
        {"discard_reason": None},
    ],
    ids=str,
)
def test_a_request_with_unknown_or_wrong_fields_is_refused(change: dict[str, Any], job: Job, shop: Shop) -> None:
    shop.letter()
    text = json.dumps(DOCUMENT | change)
    code, report, _ = replace(job, environment={"OUTHAUL_RUN_REQUEST": text}).run()
    assert (code, report.reason) == (outcomes.BAD_REQUEST, "BadRequest")
    shop.take_all(DLQ, 1)


def test_a_whole_request_arrives_as_it_was_written(job: Job, shop: Shop) -> None:
    message_id = shop.letter()
    whole = Filter(
        reasons=("rejected",),
        types=("shop.order.created.v1",),
        ids=(str(message_id),),
        subjects=("order-1",),
        older_than_seconds=0.0,
        younger_than_seconds=3600.0,
    )
    code, report, _ = asked(job, filter=whole, force=True).run()
    assert (code, report.counts["moved"]) == (outcomes.DONE, 1)
    shop.take_all(QUEUE, 1)

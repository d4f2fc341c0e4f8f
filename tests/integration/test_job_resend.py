from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
import pytest

from job_support import Job, events
from outhaul_operator import outcomes
from outhaul_operator.requests import ResendRun
from support import BrokerUnderTest, poll
from support_amqp import Amqp, through_port
from support_outbox import EXCHANGE, KEY, QUEUE, message, pending, record, rows, sent_ids
from support_proxy import Proxy

ALL = ResendRun()


@pytest.fixture
def job(outbox_dsn: str, broker: BrokerUnderTest, tmp_path: Path) -> Job:
    """A Job that sends whatever is free."""
    with Amqp(broker) as amqp:
        amqp.exchange(EXCHANGE)
        amqp.queue(QUEUE, (EXCHANGE, KEY))
    return Job(ALL, outbox_dsn, broker.amqp_url, tmp_path)


def run_row(dsn: str, run_id: str) -> dict[str, Any]:
    with psycopg.connect(dsn, row_factory=psycopg.rows.dict_row) as conn:
        row = conn.execute("SELECT * FROM runs WHERE run_id = %s", (run_id,)).fetchone()
    assert row is not None
    return row


def in_queue(broker: BrokerUnderTest) -> list[str]:
    """The ids of all messages published, in order, doubles included."""
    with Amqp(broker) as amqp:
        return [properties.message_id for properties, _ in amqp.take(QUEUE, amqp.depth(QUEUE))]


def test_a_job_sends_what_is_stuck_and_says_so(job: Job) -> None:
    record(job.database, *[message(n) for n in range(1200)])
    code, report, log = job.run()
    assert (code, report.reason, report.counts["sent"]) == (outcomes.DONE, "", 1200)
    assert pending(job.database) == 0
    kept = run_row(job.database, job.run_id)
    assert (kept["kind"], kept["actor"], kept["state"]) == ("resend", "Resend default/again", "done")
    assert events(log)[-1]["sent"] == 1200


def test_a_job_sends_no_more_than_its_batch(job: Job) -> None:
    record(job.database, *[message(n) for n in range(1200)])
    assert replace(job, request=ResendRun(limit=500)).run()[1].counts["sent"] == 500
    assert pending(job.database) == 700


@pytest.mark.parametrize("choice", ["ids", "span", "parked"])
def test_a_job_sends_the_rows_meant_and_no_others(choice: str, job: Job) -> None:
    recorded = record(job.database, *[message(n) for n in range(6)])
    meant = [each.message_id for each in recorded[:3]]
    with psycopg.connect(job.database) as conn:
        conn.execute("UPDATE outbox SET status = 'parked', attempts = 9 WHERE message_id = ANY(%s)", (meant,))
        now = datetime.now(UTC)
        conn.execute(
            "UPDATE outbox SET message_id = overlay(message_id::text PLACING '0193a1b2-7c4d' FROM 1)::uuid"
            " WHERE NOT message_id = ANY(%s)",
            (meant,),
        )
    request = {
        "ids": ResendRun(message_ids=tuple(meant)),
        "span": ResendRun(created_between=(now - timedelta(hours=1), now + timedelta(hours=1))),
        "parked": ResendRun(parked=True),
    }[choice]
    code, report, _ = replace(job, request=request).run()
    assert (code, report.counts["sent"]) == (outcomes.DONE, 3)
    assert sorted(sent_ids(job.database)) == sorted(meant)


def test_the_same_job_twice_does_its_work_once(job: Job) -> None:
    record(job.database, message(1))
    assert job.run()[1].counts["sent"] == 1
    record(job.database, message(2))
    code, report, _ = job.run()
    assert (code, report.done_before, report.counts["sent"]) == (outcomes.DONE, True, 1)
    assert pending(job.database) == 1


def test_a_killed_job_started_again_loses_nothing(job: Job, broker: BrokerUnderTest) -> None:
    recorded = record(job.database, *[message(n) for n in range(20_000)])
    job.start()
    poll(lambda: pending(job.database) < 20_000, what="the first rows to be sent")
    job.kill()
    left = pending(job.database)
    assert 0 < left < 20_000
    with psycopg.connect(job.database) as conn:  # as time would: what the dead held is free when its lease ends
        conn.execute("UPDATE outbox SET available_at = clock_timestamp()")
    code, report, _ = job.run()
    assert (code, report.reason, pending(job.database)) == (outcomes.DONE, "", 0)
    assert len(sent_ids(job.database)) == 20_000
    assert set(in_queue(broker)) == {str(each.message_id) for each in recorded}


def test_two_at_once_send_each_row_once(job: Job, broker: BrokerUnderTest) -> None:
    recorded = record(job.database, *[message(n) for n in range(5000)])
    other = replace(job)
    job.start()
    other.start()
    codes = [each.end()[0] for each in (job, other)]
    assert codes == [outcomes.DONE, outcomes.DONE]
    assert pending(job.database) == 0
    assert sorted(in_queue(broker)) == sorted(str(each.message_id) for each in recorded)
    assert run_row(job.database, job.run_id)["state"] == "done"


def test_a_job_told_to_stop_ends_in_order_and_goes_on_when_started_again(job: Job) -> None:
    record(job.database, *[message(n) for n in range(30_000)])
    job.start()
    poll(lambda: pending(job.database) < 30_000, what="the first rows to be sent")
    job.stop()
    code, report, _ = job.end(seconds=25)
    assert (code, report.reason) == (outcomes.OUTAGE, "Stopped")
    assert code not in outcomes.HOPELESS
    sent = report.counts["sent"]
    assert 0 < sent < 30_000
    assert pending(job.database) == 30_000 - sent
    held = "SELECT count(*) FROM outbox WHERE lease_token IS NOT NULL"
    with psycopg.connect(job.database) as conn:
        assert conn.execute(held).fetchone() == (0,)
    kept = run_row(job.database, job.run_id)
    assert (kept["state"], kept["counts"]["sent"]) == ("failed", sent)
    assert job.run()[1].counts["sent"] == 30_000


def test_a_route_that_leads_nowhere_is_named_and_not_tried_again(job: Job) -> None:
    record(job.database, message(1), message(2, routing_key="order.lost"))
    code, report, _ = job.run()
    assert code == outcomes.NOT_TAKEN
    assert (report.reason, report.counts["sent"]) == ("NotRoutable", 1)
    assert f"exchange '{EXCHANGE}' by 'order.lost'" in report.message
    again, report, _ = job.run()
    assert (again, report.done_before) == (outcomes.NOT_TAKEN, True)
    assert "order.lost" in report.message


def test_a_message_the_broker_refuses_is_parked_after_as_many_attempts_as_the_outbox_says(job: Job) -> None:
    record(job.database, message(1))
    with psycopg.connect(job.database) as conn:
        # The broker closes the channel (406) over a BCC header that is no list: it routes by it.
        conn.execute("""UPDATE outbox SET headers = '{"BCC": "not a list"}'""")
    code, report, _ = replace(job, request=ResendRun(max_attempts=1)).run()
    assert (code, report.reason) == (outcomes.NOT_TAKEN, "MessagesRefused")
    assert rows(job.database, "status", "attempts") == [{"status": "parked", "attempts": 1}]


def with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.username}:{password}@{parts.hostname}:{parts.port}").geturl()


def test_refused_logins_are_hopeless_and_no_password_is_told(job: Job) -> None:
    record(job.database, message(1))
    for changed in (
        replace(job, broker=with_password(job.broker, "wr0ng-pass")),
        replace(job, database=with_password(job.database, "wr0ng-pass")),
        replace(job, broker=urlsplit(job.broker)._replace(path="/nowhere").geturl()),
    ):
        code, report, log = changed.run()
        assert (code, report.reason) == (outcomes.REFUSED, "CredentialsRefused")
        assert "wr0ng-pass" not in log + report.message
    assert pending(job.database) == 1


def test_a_database_without_the_tables_is_hopeless(job: Job, postgres_url: str) -> None:
    code, report, _ = replace(job, database=postgres_url).run()
    assert (code, report.reason) == (outcomes.SCHEMA_MISSING, "SchemaMissing")
    assert "outhaul schema apply" in report.message


def test_a_read_only_database_is_named(job: Job) -> None:
    read_only = job.database + "?options=-c%20default_transaction_read_only%3Don"
    code, report, _ = replace(job, database=read_only).run()
    assert (code, report.reason) == (outcomes.READ_ONLY, "ReadOnly")


def test_an_absent_database_is_an_outage_to_try_again(job: Job) -> None:
    code, report, _ = replace(job, database="postgresql://nobody:s3cret@127.0.0.1:1/x").run()
    assert (code, report.reason) == (outcomes.OUTAGE, "Unreachable")
    assert "s3cret" not in report.message


def test_a_broker_that_is_back_soon_costs_nothing(job: Job) -> None:
    record(job.database, message(1))
    parts = urlsplit(job.broker)
    with Proxy(parts.hostname or "", parts.port or 0) as proxy:
        proxy.stop()
        through = replace(job, broker=through_port(job.broker, proxy.port)).start()
        poll(lambda: run_row_state(job.database) == "running", what="the run to begin", seconds=20)
        proxy.start()
        code, report, _ = through.end()
    assert (code, report.counts["sent"]) == (outcomes.DONE, 1)


def run_row_state(dsn: str) -> str | None:
    with psycopg.connect(dsn) as conn:
        row = conn.execute("SELECT state FROM runs").fetchone()
    return row[0] if row else None


NIL = str(UUID(int=0))


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "no json",
        "[]",
        "{}",
        '{"max_attempts": 5, "image": "evil"}',
        '{"max_attempts": "5"}',
        '{"max_attempts": 5, "limit": 1.5}',
        '{"max_attempts": 5, "limit": 0}',
        '{"max_attempts": 5, "limit": true}',
        '{"max_attempts": 0}',
        '{"max_attempts": 5, "message_ids": ["x"]}',
        f'{{"max_attempts": 5, "message_ids": "{NIL}"}}',
        '{"max_attempts": 5, "created_between": ["2026-01-31T10:00:00Z"]}',
        '{"max_attempts": 5, "created_between": ["2026-01-31T10:00:00", "2026-01-31T11:00:00"]}',
        '{"max_attempts": 5, "parked": false}',
        f'{{"max_attempts": 5, "parked": true, "message_ids": ["{NIL}"]}}',
    ],
)
def test_a_request_with_unknown_or_wrong_fields_is_refused(text: str | None, job: Job) -> None:
    record(job.database, message(1))
    code, report, _ = replace(job, environment={"OUTHAUL_RUN_REQUEST": text}).run()
    assert (code, report.reason) == (outcomes.BAD_REQUEST, "BadRequest")
    assert report.message
    assert pending(job.database) == 1


@pytest.mark.parametrize("variable", ["OUTHAUL_DATABASE_URL", "OUTHAUL_AMQP_URL"])
@pytest.mark.parametrize("value", [None, "s3cret", "amqp://user:s3cret/@broker", "postgresql://u:s3cret@h:99999999/d"])
def test_an_address_that_cannot_be_used_is_refused_without_being_shown(
    variable: str, value: str | None, job: Job
) -> None:
    code, report, log = replace(job, environment={variable: value}).run()
    assert (code, report.reason) == (outcomes.BAD_REQUEST, "SecretInvalid")
    assert variable in report.message
    assert "s3cret" not in log + report.message


def test_one_run_id_cannot_stand_for_two_requests(job: Job) -> None:
    record(job.database, message(1))
    assert job.run()[0] == outcomes.DONE
    code, report, _ = replace(job, request=ResendRun(limit=7)).run()
    assert (code, report.reason) == (outcomes.BAD_REQUEST, "BadRequest")


@pytest.mark.parametrize("arguments", [[], ["topology"], ["resend", "redrive"]])
def test_a_wrong_command_line_is_told(arguments: list[str], tmp_path: Path) -> None:
    report = tmp_path / "report"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "outhaul_operator.work", *arguments],
        env={"OUTHAUL_TERMINATION_LOG": str(report)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == outcomes.USAGE
    assert "resend, redrive" in report.read_text()

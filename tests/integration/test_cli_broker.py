import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cli_support import answer, outhaul, program
from letter_support import DLQ, QUEUE, Shop, connected, new_id, rows
from outhaul.cli.exit_codes import FINDING, FINE, INTERRUPTED, UNREACHABLE, USAGE
from support import BrokerUnderTest, poll

INSERT = (
    "INSERT INTO outbox (exchange, routing_key, type, source, aggregate_id, payload) "
    "VALUES ('shop.events', %s, 'shop.order.created.v1', 'shop', 'order-1', '{}') RETURNING message_id"
)
TOPOLOGY = (
    '[[consumers]]\nqueue = "shop.waybill"\nbindings = [{exchange = "shop.events", routing_key = "order.created"}]\n'
)


@pytest.fixture
def bare(broker: BrokerUnderTest, make_database: Callable[..., str], tmp_path: Path) -> dict[str, str]:
    """The settings of a shop whose broker has nothing declared yet."""
    dsn = make_database(("outbox", "inbox"))
    declared = tmp_path / "shop.toml"
    declared.write_text(TOPOLOGY)
    return {
        "OUTHAUL_OUTBOX_DATABASE_URL": dsn,
        "OUTHAUL_INBOX_DATABASE_URL": dsn,
        "OUTHAUL_AMQP_URL": broker.amqp_url,
        "OUTHAUL_MANAGEMENT_URL": broker.management_url,
        "OUTHAUL_TOPOLOGY": str(declared),
    }


@pytest.fixture
def env(bare: dict[str, str]) -> dict[str, str]:
    """The same, with the topology applied by the command."""
    done = outhaul("topology", "apply", **bare)
    assert done.exit_code == FINE, done.output
    return bare


@pytest.fixture
def shop(env: dict[str, str], broker: BrokerUnderTest) -> Iterator[Shop]:
    with connected(broker) as found:
        yield found


@pytest.fixture
def durable(postgres_url: str) -> Iterator[None]:
    """The server waits for its disk, as one of people's does; the suites' own does not otherwise."""
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        before = fsync(conn)
        if before == "off":
            set_fsync(conn, "on")
        yield
        if before == "off":
            set_fsync(conn, "off")


def fsync(conn: psycopg.Connection[Any]) -> str:
    row = conn.execute("SELECT current_setting('fsync')").fetchone()
    assert row is not None
    return str(row[0])


def set_fsync(conn: psycopg.Connection[Any], value: str) -> None:
    conn.execute(sql.SQL("ALTER SYSTEM SET fsync = {}").format(value))
    conn.execute("SELECT pg_reload_conf()")
    poll(lambda: fsync(conn) == value, what=f"fsync {value}")


def dsn(env: dict[str, str]) -> str:
    return env["OUTHAUL_OUTBOX_DATABASE_URL"]


class TestTopology:
    def test_apply_makes_it_and_diff_then_finds_nothing(self, bare: dict[str, str]) -> None:
        assert outhaul("topology", "diff", **bare).exit_code == FINDING
        assert outhaul("topology", "check", **bare).exit_code == FINDING
        assert answer("topology", "apply", "--dry-run", **bare)["changed"]
        assert outhaul("topology", "check", **bare).exit_code == FINDING
        assert answer("topology", "apply", **bare)["changed"]
        assert answer("topology", "diff", **bare) == {"differences": []}
        assert outhaul("topology", "check", **bare).exit_code == FINE
        assert answer("topology", "apply", **bare) == {"dry_run": False, "changed": [], "remaining": []}

    def test_a_virtual_host_that_is_not_there_is_named(self, bare: dict[str, str]) -> None:
        elsewhere = {**bare, "OUTHAUL_AMQP_URL": bare["OUTHAUL_AMQP_URL"].rpartition("/")[0] + "/nowhere"}
        done = outhaul("topology", "diff", **elsewhere)
        assert done.exit_code == FINDING
        assert "nowhere" in done.stderr


class TestDlq:
    def test_an_empty_queue_is_exit_code_0(self, env: dict[str, str]) -> None:
        done = outhaul("dlq", "list", **env)
        assert done.exit_code == FINE
        assert "No dead letters" in done.stdout

    def test_letters_are_listed_and_counted_by_reason(self, env: dict[str, str], shop: Shop) -> None:
        ids = [str(shop.letter(reason=reason)) for reason in ("rejected", "exhausted", "rejected")]
        told = answer("dlq", "list", **env)
        assert [letter["message_id"] for letter in told["letters"]] == ids
        assert told["by_reason"] == {"rejected": 2, "exhausted": 1}
        done = outhaul("dlq", "list", "--limit", "1", **env)
        assert done.exit_code == FINDING
        assert "1 of 3 shown: 2 rejected, 1 exhausted" in done.stdout
        assert answer("dlq", "list", "--died-of", "exhausted", **env)["by_reason"] == {"exhausted": 1}
        assert answer("dlq", "list", "--older-than", "1h", **env)["letters"] == []

    def test_one_letter_is_shown_with_its_payload(self, env: dict[str, str], shop: Shop) -> None:
        message_id = str(shop.letter(subject="order-7"))
        [letter] = answer("dlq", "show", message_id, **env)["letters"]
        assert letter["payload"]["subject"] == "order-7"
        assert letter["headers"]["tenant"] == "north"
        assert json.loads(outhaul("dlq", "show", message_id, "--raw", **env).stdout)["id"] == message_id
        assert "x-outhaul-reason" in outhaul("dlq", "show", message_id, **env).stdout

    def test_a_letter_that_is_not_there_is_a_finding(self, env: dict[str, str]) -> None:
        done = outhaul("dlq", "show", str(new_id()), **env)
        assert done.exit_code == FINDING
        assert "holds no letter" in done.stderr

    def test_redrive_moves_records_and_is_done_once(self, env: dict[str, str], shop: Shop) -> None:
        message_id = str(shop.letter())
        assert answer("dlq", "redrive", "--dry-run", **env)["counts"]["moved"] == 1
        told = answer("dlq", "redrive", "--yes", "--run-id", "ticket-1", **env)
        assert told["counts"]["moved"] == 1
        assert shop.ids(QUEUE, 1) == {message_id}
        shop.letter()
        again = outhaul("dlq", "redrive", "--yes", "--run-id", "ticket-1", **env)
        assert again.exit_code == FINE
        assert "was done before" in again.stdout
        shop.take_all(DLQ, 1)
        assert rows(dsn(env), "SELECT kind, state FROM runs") == [("dlq-redrive", "done")]

    def test_a_message_that_dies_again_at_once_is_a_finding(self, env: dict[str, str], shop: Shop) -> None:
        shop.channel.queue_unbind(QUEUE, "outhaul.retry", QUEUE)
        shop.letter()
        done = outhaul("dlq", "redrive", "--yes", **env)
        assert done.exit_code == FINDING
        assert "no queue is bound" in done.stderr
        shop.take_all(DLQ, 1)

    def test_discard_needs_a_reason_and_records_it(self, env: dict[str, str], shop: Shop) -> None:
        shop.letter()
        assert outhaul("dlq", "discard", "--yes", **env).exit_code == USAGE
        assert answer("dlq", "discard", "--reason", "test data", "--yes", **env)["counts"]["moved"] == 1
        assert outhaul("dlq", "list", **env).exit_code == FINE
        told = rows(dsn(env), "SELECT kind FROM runs WHERE detail = 'test data' ORDER BY kind")
        assert told == [("dlq-discard",), ("dlq-discard.letters",)]

    def test_a_program_that_cannot_ask_does_nothing(self, env: dict[str, str], shop: Shop) -> None:
        shop.letter()
        done = program("dlq", "redrive", **env)
        assert done.returncode == USAGE
        assert "--yes" in done.stderr
        shop.take_all(DLQ, 1)

    def test_a_queue_that_is_not_there_is_named(self, env: dict[str, str]) -> None:
        done = outhaul("dlq", "list", "--queue", "shop.nothing", **env)
        assert done.exit_code == FINDING
        assert "shop.nothing.dlq" in done.stderr
        assert "Traceback" not in done.output

    def test_a_redrive_killed_in_the_middle_loses_nothing(self, env: dict[str, str], shop: Shop) -> None:
        sent = {str(shop.letter()) for _ in range(30)}
        command = [sys.executable, "-c", "from outhaul.cli import main; main()"]
        arguments = ["dlq", "redrive", "--rate", "20", "--yes", "--run-id", "ticket-1"]
        running = subprocess.Popen([*command, *arguments], env=env)
        poll(lambda: shop.depth(QUEUE) >= 3, what="a few redriven messages")
        running.send_signal(signal.SIGKILL)
        running.wait(10)
        told = answer("dlq", "redrive", "--rate", "1000", "--yes", "--run-id", "ticket-1", **env)
        assert told["counts"]["moved"] >= 27
        there: set[str] = set()

        def all_there() -> bool:
            while (message := shop.take(QUEUE)) is not None:
                there.add(message[1].message_id)
            return there == sent

        poll(all_there, what="every message")

    def test_a_redrive_that_is_stopped_closes_its_record(self, env: dict[str, str], shop: Shop) -> None:
        for _ in range(30):
            shop.letter()
        command = [sys.executable, "-c", "from outhaul.cli import main; main()"]
        arguments = ["dlq", "redrive", "--rate", "20", "--yes", "--run-id", "ticket-1"]
        running = subprocess.Popen([*command, *arguments], env=env, stderr=subprocess.PIPE, text=True)
        poll(lambda: shop.depth(QUEUE) >= 3, what="a few redriven messages")
        running.send_signal(signal.SIGTERM)
        _, told = running.communicate(timeout=20)
        assert running.returncode == INTERRUPTED
        assert "interrupted" in told
        [(state, moved)] = rows(dsn(env), "SELECT state, (counts->>'moved')::integer FROM runs")
        assert state == "failed"
        assert moved >= 3
        left = answer("dlq", "redrive", "--rate", "1000", "--yes", "--run-id", "ticket-1", **env)
        assert left["counts"]["moved"] == 30
        shop.take_all(QUEUE, 30)

    def test_hostile_letters_are_shown_without_moving_the_cursor(self, env: dict[str, str], shop: Shop) -> None:
        body = b'{"id": "x", "type": "evil\\u001b[2J", "subject": "\\ud800", "data": "\\ud800"}'
        shop.letter(body=body, headers={"x-outhaul-error": "line\n\x1b[31mred"})
        shop.letter(body=b"\xff\xfe", headers={})
        listed = program("dlq", "list", **env)
        assert listed.returncode == FINDING, listed.stderr
        assert "\x1b" not in listed.stdout
        for arguments in (("dlq", "list", "--output", "json"), ("dlq", "show", "x", "--output", "json")):
            done = program(*arguments, **env)
            assert done.stderr == ""
            json.loads(done.stdout)
        shown = program("dlq", "show", "x", **env)
        assert shown.returncode == FINE, shown.stderr
        assert "\x1b" not in shown.stdout

    def test_a_reader_that_has_had_enough_is_no_error(self, env: dict[str, str], shop: Shop) -> None:
        for _ in range(30):
            shop.letter()
        command = [sys.executable, "-c", "from outhaul.cli import main; main()", "dlq", "list", "--output", "json"]
        running = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert running.stdout is not None
        running.stdout.close()
        assert running.stderr is not None
        told = running.stderr.read()
        running.stderr.close()
        assert running.wait(20) == FINE
        assert told == ""


class TestResend:
    def record(self, env: dict[str, str], routing_key: str = "order.created") -> str:
        [(message_id,)] = rows(dsn(env), INSERT, routing_key)
        return str(message_id)

    def test_what_nobody_sends_is_sent(self, env: dict[str, str], shop: Shop) -> None:
        message_id = self.record(env)
        assert answer("resend", "--dry-run", **env) == {"dry_run": True, "free": 1, "held_by_senders": 0}
        told = answer("resend", "--run-id", "ticket-1", **env)
        assert (told["clean"], told["counts"]["sent"]) == (True, 1)
        assert shop.ids(QUEUE, 1) == {message_id}
        assert rows(dsn(env), "SELECT count(*) FROM outbox_sent") == [(1,)]
        assert answer("resend", "--run-id", "ticket-1", **env)["done_before"]

    def test_a_route_that_leads_nowhere_is_a_finding_and_its_row_stays(self, env: dict[str, str], shop: Shop) -> None:
        sent, _ = self.record(env), self.record(env, "order.lost")
        done = outhaul("resend", **env)
        assert done.exit_code == FINDING
        assert "order.lost" in done.stdout
        assert shop.ids(QUEUE, 1) == {sent}
        assert rows(dsn(env), "SELECT routing_key FROM outbox") == [("order.lost",)]

    def test_no_more_rows_are_sent_than_the_limit_says(self, env: dict[str, str], shop: Shop) -> None:
        for _ in range(3):
            self.record(env)
        assert "at most 2 of them" in outhaul("resend", "--limit", "2", "--dry-run", **env).stdout
        assert answer("resend", "--limit", "2", **env)["counts"]["sent"] == 2
        shop.take_all(QUEUE, 2)
        assert rows(dsn(env), "SELECT count(*) FROM outbox") == [(1,)]

    def test_only_the_rows_named_are_sent(self, env: dict[str, str], shop: Shop) -> None:
        self.record(env)
        chosen = self.record(env)
        assert answer("resend", "--id", chosen, **env)["counts"]["sent"] == 1
        assert shop.ids(QUEUE, 1) == {chosen}

    def test_a_broker_that_stays_away_is_exit_code_3(self, env: dict[str, str]) -> None:
        self.record(env)
        away = {**env, "OUTHAUL_AMQP_URL": "amqp://127.0.0.1:1/x"}
        done = outhaul("resend", "--patience", "500ms", **away)
        assert done.exit_code == UNREACHABLE
        assert "--run-id" in done.stdout

    def test_watch_sends_until_it_is_told_to_end(self, env: dict[str, str], shop: Shop) -> None:
        command = [
            sys.executable,
            "-c",
            "from outhaul.cli import main; main()",
            "resend",
            "--watch",
            "--output",
            "json",
        ]
        running = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        try:
            message_id = self.record(env)
            poll(lambda: shop.depth(QUEUE) == 1, what="the message")
            poll(lambda: rows(dsn(env), "SELECT count(*) FROM outbox_sent") == [(1,)], what="the mark")
            running.send_signal(signal.SIGTERM)
            shown, _ = running.communicate(timeout=20)
        finally:
            running.kill()
            running.wait(10)
        assert running.returncode == FINE
        assert json.loads(shown.splitlines()[0])["sent"] == 0
        assert shop.ids(QUEUE, 1) == {message_id}


class TestTraceAndAudit:
    def sent(self, env: dict[str, str], message_id: Any) -> None:
        rows(
            dsn(env),
            "INSERT INTO outbox_sent (message_id, seq, exchange, routing_key, type, aggregate_id, attempts, "
            "created_at, sent_at) SELECT %s, 1, 'shop.events', 'order.created', 't', 'order-1', 0, at, at "
            "FROM (SELECT now() - interval '1 h' AS at) RETURNING 1",
            message_id,
        )

    def test_a_dead_letter_is_part_of_the_story(self, env: dict[str, str], shop: Shop) -> None:
        message_id = shop.letter(reason="exhausted")
        self.sent(env, message_id)
        [story] = answer("trace", "order-1", **env)["stories"]
        assert story["state"] == "dead"
        assert "exhausted" in story["steps"][-1]["text"]
        assert answer("trace", str(message_id), **env)["stories"][0]["state"] == "dead"
        shop.take_all(DLQ, 1)

    def test_a_letter_is_found_without_any_database(self, env: dict[str, str], shop: Shop) -> None:
        shop.letter(subject="order-5")
        only_broker = {name: env[name] for name in ("OUTHAUL_AMQP_URL", "OUTHAUL_TOPOLOGY")}
        [story] = answer("trace", "order-5", **only_broker)["stories"]
        assert story["state"] == "dead"

    def test_a_message_is_found_in_the_queue_when_asked_to_look_there(self, env: dict[str, str], shop: Shop) -> None:
        first, second = new_id(), new_id()
        for message_id in (first, second):
            shop.publish(message_id)
        self.sent(env, second)
        [story] = answer("trace", "order-1", "--peek", "10", **env)["stories"]
        assert story["state"] == "sent"
        assert story["steps"][-1]["text"] == "waits in the consumer's queue, 1 messages before it"
        assert shop.ids(QUEUE, 2) == {str(first), str(second)}

    def test_an_audit_tells_lost_from_waiting_from_dead(self, env: dict[str, str], shop: Shop) -> None:
        dead = shop.letter()
        gone, waiting = new_id(), new_id()
        for message_id in (dead, gone, waiting):
            self.sent(env, message_id)
        # The ids are of this instant; the audit looks at whole milliseconds before its own.
        shop.publish(waiting)

        def counted() -> Any:
            told = answer("audit", "--consumer", "waybill", **env)
            return told if told["waiting"] == 1 else None

        told = poll(counted, seconds=20, what="the queue's depth in the broker's statistics")
        assert (told["dead_lettered"], told["unaccounted"], told["lost"]) == (1, 2, 1)
        assert set(told["unaccounted_ids"]) == {str(gone), str(waiting)}
        assert outhaul("audit", "--consumer", "waybill", **env).exit_code == FINDING


class TestDoctor:
    def levels(self, told: Any) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for finding in told["findings"]:
            found.setdefault(finding["check"], set()).add(finding["level"])
        return found

    @pytest.mark.usefixtures("durable")
    def test_a_healthy_system_is_exit_code_0(self, env: dict[str, str]) -> None:
        # Until the broker has made statistics of new queues, nothing is known of them; that is no finding.
        done = outhaul("doctor", **env)
        assert done.exit_code == FINE, done.output
        for check in ("outbox schema", "inbox partitions", "broker alarms", "topology", "dlq"):
            assert check in done.stdout

    def test_a_server_that_does_not_wait_for_its_disk_is_warned_of(
        self, env: dict[str, str], postgres_url: str
    ) -> None:
        with psycopg.connect(postgres_url) as conn:
            expected = {"warning"} if fsync(conn) == "off" else set()
        assert self.levels(answer("doctor", **env)).get("outbox durability", set()) == expected

    def test_what_is_not_given_is_skipped_and_said_so(self) -> None:
        told = answer("doctor", OUTHAUL_AMPQ_URL="amqp://x")
        levels = self.levels(told)
        assert levels["outbox database"] == levels["broker"] == {"skipped"}
        assert levels["settings"] == {"warning"}
        assert "OUTHAUL_AMQP_URL" in told["findings"][0]["text"]

    def test_drift_and_dead_letters_are_found_with_their_remedy(self, env: dict[str, str], shop: Shop) -> None:
        shop.channel.queue_unbind(QUEUE, "shop.events", "order.created")
        shop.letter()

        def seen() -> Any:
            told = answer("doctor", **env)
            return told if self.levels(told)["dlq"] == {"problem"} else None

        told = poll(seen, seconds=20, what="the dead letter in the broker's statistics")
        assert self.levels(told)["topology"] == {"problem"}
        assert all(f["remedy"] for f in told["findings"] if f["level"] in {"problem", "warning"})
        assert outhaul("doctor", **env).exit_code == FINDING

    def test_a_long_transaction_is_named(self, env: dict[str, str]) -> None:
        with psycopg.connect(dsn(env), application_name="the culprit") as conn:
            conn.execute("CREATE TEMP TABLE t ()")

            def seen() -> Any:
                told = answer("doctor", "--long-transaction", "10ms", **env)
                return [f for f in told["findings"] if "the culprit" in f["text"]]

            found = poll(seen, what="the transaction")
        assert "pg_terminate_backend" in found[0]["remedy"]

    def test_missing_partitions_and_rows_in_the_net_are_found(self, env: dict[str, str]) -> None:
        with psycopg.connect(dsn(env), autocommit=True) as conn:
            for (name,) in conn.execute(
                "SELECT relname FROM pg_class WHERE relname ~ '^inbox_p[0-9]{8}$' ORDER BY 1"
            ).fetchall():
                conn.execute(f'DROP TABLE "{name}"'.encode())
            conn.execute("INSERT INTO inbox (consumer, message_id, payload_hash) VALUES ('c', %s, 'x')", (new_id(),))
        told = answer("doctor", **env)
        texts = [f["text"] for f in told["findings"] if f["check"] == "inbox partitions"]
        assert any("today's is missing" in text for text in texts)
        assert any("1 rows lie in inbox_default" in text for text in texts)

    def test_a_missing_day_is_found_though_later_ones_are_there(self, env: dict[str, str]) -> None:
        with psycopg.connect(dsn(env), autocommit=True) as conn:
            names = conn.execute(
                "SELECT relname FROM pg_class WHERE relname ~ '^inbox_p[0-9]{8}$' ORDER BY 1"
            ).fetchall()
            conn.execute(f'DROP TABLE "{names[3][0]}"'.encode())  # yesterday, today, tomorrow, and this one
        told = answer("doctor", **env)
        [finding] = [f for f in told["findings"] if f["check"] == "inbox partitions"]
        assert "that of 2 days from now is missing" in finding["text"]

    def test_one_part_that_is_away_hides_none_of_the_others(self, env: dict[str, str]) -> None:
        away = {**env, "OUTHAUL_AMQP_URL": "amqp://127.0.0.1:1/x"}
        told = answer("doctor", **away)
        assert told["unreachable"]
        assert self.levels(told)["broker"] == {"problem"}
        assert self.levels(told)["inbox schema"] == {"ok"}
        assert outhaul("doctor", **away).exit_code == UNREACHABLE

    def test_a_database_without_schema_says_what_to_run(self, make_database: Callable[..., str]) -> None:
        told = answer("doctor", "--outbox-dsn", make_database(()))
        [finding] = [f for f in told["findings"] if f["check"] == "outbox schema"]
        assert finding["level"] == "problem"
        assert "outhaul schema apply --component outbox" in finding["remedy"]

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from cli_support import answer, outhaul, program
from letter_support import new_id, rows
from outhaul.cli.exit_codes import FINDING, FINE, UNREACHABLE, USAGE

INSERT = (
    "INSERT INTO outbox (exchange, routing_key, type, source, aggregate_id, payload) "
    "VALUES ('shop.events', 'order.created', 'shop.order.created.v1', 'shop', %s, '{}') RETURNING message_id"
)
HISTORY = (
    "INSERT INTO outbox_sent (message_id, seq, exchange, routing_key, type, aggregate_id, attempts, created_at, "
    "sent_at) VALUES (%s, 1, 'shop.events', 'order.created', 'shop.order.created.v1', 'order-9', 0, %s, %s) RETURNING 1"
)
CONSUMED = "INSERT INTO inbox (consumer, message_id, payload_hash) VALUES ('waybill', %s, 'x') RETURNING 1"


@pytest.fixture
def env(make_database: Callable[..., str]) -> dict[str, str]:
    dsn = make_database(("outbox", "inbox"))
    return {"OUTHAUL_OUTBOX_DATABASE_URL": dsn, "OUTHAUL_INBOX_DATABASE_URL": dsn}


def record(env: dict[str, str], aggregate: str = "order-1") -> UUID:
    [(message_id,)] = rows(env["OUTHAUL_OUTBOX_DATABASE_URL"], INSERT, aggregate)
    assert isinstance(message_id, UUID)
    return message_id


def send(env: dict[str, str], age: timedelta = timedelta(hours=1)) -> UUID:
    message_id, moment = new_id(age), datetime.now(UTC) - age
    rows(env["OUTHAUL_OUTBOX_DATABASE_URL"], HISTORY, message_id, moment, moment)
    return message_id


def consume(env: dict[str, str], message_id: UUID) -> None:
    rows(env["OUTHAUL_INBOX_DATABASE_URL"], CONSUMED, message_id)


class TestSchema:
    def test_an_empty_database_lacks_everything_and_apply_brings_it(self, make_database: Callable[..., str]) -> None:
        dsn = make_database(())
        before = answer("schema", "status", "--component", "outbox", "--dsn", dsn)
        assert before["components"][0]["missing"]
        assert outhaul("schema", "status", "--component", "outbox", "--dsn", dsn).exit_code == FINDING
        applied = answer("schema", "apply", "--component", "outbox", "--dsn", dsn)
        assert applied["components"][0]["steps"]
        done = outhaul("schema", "status", "--component", "outbox", "--dsn", dsn)
        assert done.exit_code == FINE, done.output

    def test_a_dry_run_shows_the_sql_and_changes_nothing(self, make_database: Callable[..., str]) -> None:
        dsn = make_database(())
        shown = outhaul("schema", "apply", "--component", "inbox", "--dsn", dsn, "--dry-run")
        assert shown.exit_code == FINE
        assert "CREATE TABLE inbox" in shown.stdout
        assert rows(dsn, "SELECT to_regclass('inbox')") == [(None,)]

    def test_applying_again_is_harmless(self, make_database: Callable[..., str]) -> None:
        dsn = make_database(("outbox", "inbox"))
        done = outhaul("schema", "apply", "--component", "outbox", "--component", "inbox", "--dsn", dsn)
        assert done.exit_code == FINE
        assert done.stdout.count("up to date") == 2


class TestStatus:
    def test_it_tells_what_waits_and_that_nobody_sends(self, env: dict[str, str]) -> None:
        record(env)
        told = answer("status", **env)
        assert told["outbox"]["counts"]["pending"] == 1
        assert [f["check"] for f in told["findings"] if f["level"] == "problem"] == ["senders"]
        assert outhaul("status", **env).exit_code == FINDING

    def test_calm_is_exit_code_0(self, env: dict[str, str]) -> None:
        consume(env, send(env))
        done = outhaul("status", **env)
        assert done.exit_code == FINE, done.output
        assert "0 pending" in done.stdout
        assert "consumer waybill" in done.stdout

    def test_one_side_alone_will_do(self, env: dict[str, str]) -> None:
        told = answer("status", OUTHAUL_INBOX_DATABASE_URL=env["OUTHAUL_INBOX_DATABASE_URL"])
        assert told["outbox"] is None
        assert told["inbox"] == []

    def test_a_broker_that_is_away_hides_nothing_of_the_databases(self, env: dict[str, str]) -> None:
        away = {"OUTHAUL_AMQP_URL": "amqp://127.0.0.1:1/x", "OUTHAUL_MANAGEMENT_URL": "http://127.0.0.1:1"}
        done = outhaul("status", "--queue", "q", **env, **away)
        assert done.exit_code == UNREACHABLE
        assert "0 pending" in done.stdout
        assert "127.0.0.1:1" in done.stdout


class TestTrace:
    def test_a_message_is_followed_from_row_to_effect(self, env: dict[str, str]) -> None:
        message_id = send(env)
        consume(env, message_id)
        done = outhaul("trace", str(message_id), **env)
        assert done.exit_code == FINE, done.output
        assert [word in done.stdout for word in ("recorded", "confirmed", "effect committed", "done")] == [True] * 4

    def test_an_aggregate_shows_all_its_messages_in_order(self, env: dict[str, str]) -> None:
        older = send(env)
        rows(env["OUTHAUL_OUTBOX_DATABASE_URL"], "UPDATE outbox_sent SET aggregate_id = 'order-1' RETURNING 1")
        newer = record(env)
        told = answer("trace", "order-1", **env)
        assert [story["message_id"] for story in told["stories"]] == [str(older), str(newer)]
        assert [story["state"] for story in told["stories"]] == ["sent", "waiting"]

    def test_an_aggregate_whose_id_is_a_uuid_is_found_too(self, env: dict[str, str]) -> None:
        order_id = str(new_id())
        message_id = record(env, order_id)
        assert answer("trace", order_id, **env)["stories"][0]["message_id"] == str(message_id)

    def test_a_failing_message_tells_why(self, env: dict[str, str]) -> None:
        message_id = send(env)
        rows(
            env["OUTHAUL_INBOX_DATABASE_URL"],
            "INSERT INTO deliveries (consumer, message_id, failed, first_failed_at, last_failed_at, last_error) "
            "VALUES ('waybill', %s, 2, clock_timestamp(), clock_timestamp(), 'TimeoutError: carrier') RETURNING 1",
            message_id,
        )
        [story] = answer("trace", str(message_id), **env)["stories"]
        assert story["state"] == "failing"
        assert any("TimeoutError: carrier" in step["text"] for step in story["steps"])

    def test_a_parked_row_is_a_finding(self, env: dict[str, str]) -> None:
        record(env)
        rows(
            env["OUTHAUL_OUTBOX_DATABASE_URL"],
            "UPDATE outbox SET status = 'parked', park_reason = 'refused' RETURNING 1",
        )
        done = outhaul("trace", "order-1", **env)
        assert done.exit_code == FINDING
        assert "parked" in done.stdout

    def test_what_nobody_knows_is_said_so(self, env: dict[str, str]) -> None:
        done = outhaul("trace", "order-404", **env)
        assert done.exit_code == FINDING
        assert "nothing is known of 'order-404'" in done.stderr
        done = outhaul("trace", str(new_id()), **env)
        assert done.exit_code == FINDING
        assert "unknown" in done.stdout


class TestAudit:
    def test_it_matches_both_sides(self, env: dict[str, str]) -> None:
        consume(env, send(env))
        told = answer("audit", **env)
        assert (told["matched"], told["lost"], told["clean"], told["consumer"]) == (1, 0, True, "waybill")
        assert outhaul("audit", **env).exit_code == FINE

    def test_without_a_broker_it_says_that_it_cannot_tell(self, env: dict[str, str]) -> None:
        missing = send(env)
        told = answer("audit", "--consumer", "waybill", **env)
        assert (told["lost"], told["unaccounted_ids"]) == (None, [str(missing)])
        done = outhaul("audit", "--consumer", "waybill", **env)
        assert done.exit_code == FINDING
        assert "--management-url" in done.stdout

    def test_the_consumer_may_come_from_the_environment(self, env: dict[str, str]) -> None:
        consume(env, send(env))
        assert answer("audit", OUTHAUL_CONSUMER="billing", **env)["unaccounted"] == 1

    def test_only_routes_of_a_named_topology_count(self, env: dict[str, str], tmp_path: Path) -> None:
        send(env)
        declared = tmp_path / "shop.toml"
        for key, expected in (("order.created", (1, 0)), ("order.cancelled", (0, 1))):
            declared.write_text(
                f'[[consumers]]\nqueue = "q"\nbindings = [{{exchange = "shop.events", routing_key = "{key}"}}]\n'
            )
            told = answer("audit", "--consumer", "waybill", "--topology", str(declared), **env)
            assert (told["unaccounted"], told["elsewhere"]) == expected

    def test_since_and_type_narrow_it(self, env: dict[str, str]) -> None:
        send(env, timedelta(hours=5))
        since = (datetime.now(UTC) - timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert answer("audit", "--consumer", "waybill", "--since", since, **env)["unaccounted"] == 0
        assert answer("audit", "--consumer", "waybill", "--type", "other", **env)["unaccounted"] == 0


class TestDiscard:
    def discard(self, env: dict[str, str], message_id: UUID, *more: str) -> Any:
        return answer("discard", str(message_id), "--reason", "customer withdrew", *more, **env)

    def test_a_row_is_gone_and_on_record(self, env: dict[str, str]) -> None:
        message_id = record(env)
        told = self.discard(env, message_id, "--yes", "--run-id", "ticket-1")
        assert [row["message_id"] for row in told["discarded"]] == [str(message_id)]
        dsn = env["OUTHAUL_OUTBOX_DATABASE_URL"]
        assert rows(dsn, "SELECT count(*) FROM outbox") == [(0,)]
        assert rows(dsn, "SELECT state, detail FROM runs WHERE run_id = 'ticket-1'") == [("done", "customer withdrew")]

    def test_a_dry_run_discards_nothing(self, env: dict[str, str]) -> None:
        message_id = record(env)
        assert len(self.discard(env, message_id, "--dry-run")["discarded"]) == 1
        assert rows(env["OUTHAUL_OUTBOX_DATABASE_URL"], "SELECT count(*) FROM outbox") == [(1,)]

    def test_a_row_that_a_sender_holds_is_left(self, env: dict[str, str]) -> None:
        message_id = record(env)
        rows(
            env["OUTHAUL_OUTBOX_DATABASE_URL"],
            "UPDATE outbox SET lease_token = gen_random_uuid(), available_at = now() + interval '1 min' RETURNING 1",
        )
        assert self.discard(env, message_id, "--yes")["left"] == [str(message_id)]
        done = outhaul("discard", str(message_id), "--reason", "x", "--yes", **env)
        assert done.exit_code == FINDING

    def test_the_same_decision_twice_is_done_once(self, env: dict[str, str]) -> None:
        first, second = record(env), record(env)
        self.discard(env, first, "--yes", "--run-id", "ticket-1")
        assert self.discard(env, second, "--yes", "--run-id", "ticket-1")["done_before"]
        assert rows(env["OUTHAUL_OUTBOX_DATABASE_URL"], "SELECT message_id FROM outbox") == [(second,)]

    def test_where_nobody_can_answer_yes_is_needed(self, env: dict[str, str]) -> None:
        message_id = record(env)
        done = program("discard", str(message_id), "--reason", "x", **env)
        assert done.returncode == USAGE
        assert "--yes" in done.stderr
        assert rows(env["OUTHAUL_OUTBOX_DATABASE_URL"], "SELECT count(*) FROM outbox") == [(1,)]


class TestAsAProgram:
    def test_exit_codes_reach_the_shell(self, env: dict[str, str]) -> None:
        assert program("status", **env).returncode == FINE
        record(env)
        assert program("status", **env).returncode == FINDING
        assert program("status").returncode == USAGE
        assert program("status", "--outbox-dsn", "postgresql://127.0.0.1:1/x").returncode == UNREACHABLE

    def test_an_argument_that_is_no_text_is_refused(self) -> None:
        done = outhaul("trace", "order-\udcff")
        assert done.exit_code == USAGE
        assert "UTF-8" in done.stderr

    def test_a_database_without_the_tables_says_what_to_run(self, make_database: Callable[..., str]) -> None:
        done = program("status", "--outbox-dsn", make_database(()))
        assert done.returncode == FINDING
        assert "outhaul schema apply" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_role_without_rights_is_told_what_it_lacks(self, outbox_dsn: str) -> None:
        with psycopg.connect(outbox_dsn, autocommit=True) as conn:
            role = f"nobody_{new_id().hex[-12:]}"
            conn.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'".encode())
            try:
                options = {**psycopg.conninfo.conninfo_to_dict(outbox_dsn), "user": role, "password": "x"}
                done = program("status", "--outbox-dsn", psycopg.conninfo.make_conninfo("", **options))
            finally:
                conn.execute(f"DROP ROLE {role}".encode())
        assert done.returncode == UNREACHABLE
        assert "permission denied" in done.stderr

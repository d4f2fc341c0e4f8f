"""The order function as a real process, with a real database; the broker is away unless a test asks for it."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from conftest import MakeDatabase
from function_process import FunctionProcess, command, environment, running
from outhaul.database import schema_apply
from support import poll
from support_amqp import through_port
from support_proxy import Proxy

MODULE = "outhaul_order"
ORDER = {"customer": "Ada", "lines": [{"sku": "kettle", "quantity": 2, "unit_price_cents": 1999}]}
NO_BROKER = "amqp://guest:guest@127.0.0.1:1/%2F"


@pytest.fixture(scope="module")
def dsn(postgres_url: str) -> Iterator[str]:
    """One database for the tests that leave it as they found it."""
    name = f"test_order_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}".encode())
    shared = urlsplit(postgres_url)._replace(path=f"/{name}").geturl()
    with psycopg.connect(shared, autocommit=True) as conn:
        schema_apply.apply(conn, "order")
    yield shared
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, dsn: str) -> Iterator[FunctionProcess]:
    with running(MODULE, tmp_path_factory.mktemp("order"), settings_for(dsn)) as process:
        process.wait_ready()
        yield process


@pytest.fixture
def function(shared: FunctionProcess, dsn: str) -> FunctionProcess:
    """The shared process, its tables empty."""
    with psycopg.connect(dsn) as conn:
        conn.execute("TRUNCATE orders, idempotency_keys, outbox, outbox_sent")
    return shared


@pytest.fixture
def own_dsn(make_database: MakeDatabase) -> str:
    return make_database(("order",))


@pytest.fixture
def settings(own_dsn: str) -> dict[str, str]:
    return settings_for(own_dsn)


@pytest.fixture
def own(tmp_path: Path, settings: dict[str, str]) -> Iterator[FunctionProcess]:
    """A process, with a database, that the test may spoil."""
    with running(MODULE, tmp_path, settings) as process:
        process.wait_ready()
        yield process


def settings_for(dsn: str) -> dict[str, str]:
    return {"OUTHAUL_ORDER_DATABASE_URL": dsn, "OUTHAUL_AMQP_URL": NO_BROKER}


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(query.encode()).fetchall()


def written(dsn: str) -> tuple[int, int, int]:
    """Orders, messages and keys in the database."""
    [(orders, messages, keys)] = rows(
        dsn,
        "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM outbox), (SELECT count(*) FROM idempotency_keys)",
    )
    return orders, messages, keys


def problem(answer: httpx.Response) -> dict[str, Any]:
    """The problem document of an answer that is one."""
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == answer.status_code
    assert document["type"].startswith("urn:outhaul:problem:")
    assert document["title"]
    assert document["detail"]
    return document


def test_an_order_and_its_message_are_written_and_shown(function: FunctionProcess, dsn: str) -> None:
    answer = function.http.post("/orders", json=ORDER, headers={"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"})
    assert answer.status_code == 201
    accepted = answer.json()
    assert set(accepted) == {"order_id", "message_id", "status"}
    assert accepted["status"] == "pending"
    assert answer.headers["location"] == f"/orders/{accepted['order_id']}"
    assert "idempotency-replayed" not in answer.headers

    [(order_id, customer, total, message_id)] = rows(
        dsn, "SELECT order_id, customer, total_cents, message_id FROM orders"
    )
    assert (str(order_id), customer, total, str(message_id)) == (
        accepted["order_id"],
        "Ada",
        3998,
        accepted["message_id"],
    )
    [(message_id, exchange, key, kind, aggregate, payload, trace)] = rows(
        dsn, "SELECT message_id, exchange, routing_key, type, aggregate_id, payload, traceparent FROM outbox"
    )
    assert str(message_id) == accepted["message_id"]
    assert (exchange, key, kind) == ("outhaul.events", "order.created", "dev.outhaul.order.created.v1")
    assert aggregate == accepted["order_id"]
    assert trace == f"00-{'ab' * 16}-{'cd' * 8}-01"
    assert json.loads(payload) == {"order_id": accepted["order_id"], **ORDER, "total_cents": 3998}

    shown = function.http.get(answer.headers["location"]).json()
    assert shown.pop("created_at")
    assert shown == {**accepted, **ORDER, "total_cents": 3998}


CONFIRM = """
WITH gone AS (DELETE FROM outbox RETURNING *)
INSERT INTO outbox_sent (message_id, seq, exchange, routing_key, type, aggregate_id, attempts, created_at)
SELECT message_id, seq, exchange, routing_key, type, aggregate_id, attempts, created_at FROM gone"""


def test_an_order_shows_the_state_of_its_message(function: FunctionProcess, dsn: str) -> None:
    location = function.http.post("/orders", json=ORDER).headers["location"]
    for change, state in [
        ("UPDATE outbox SET status = 'parked'", "parked"),
        (CONFIRM, "sent"),
        ("DELETE FROM outbox_sent", "expired"),
    ]:
        with psycopg.connect(dsn) as conn:
            conn.execute(change.encode())
        assert function.http.get(location).json()["status"] == state


def test_an_unknown_order_is_a_404(function: FunctionProcess) -> None:
    for order_id in (str(uuid4()), "x", "%00", "1" * 5000):
        answer = function.http.get(f"/orders/{order_id}")
        assert answer.status_code == 404
        assert problem(answer)["field"] == "order_id"


def test_a_replayed_key_answers_the_same_and_writes_nothing(function: FunctionProcess, dsn: str) -> None:
    headers = {"Idempotency-Key": "order-1"}
    first = function.http.post("/orders", json=ORDER, headers=headers)
    again = function.http.post("/orders", json=ORDER, headers=headers)
    # The same order, written otherwise: what counts is what it says.
    otherwise = function.http.post(
        "/orders",
        content=json.dumps({"lines": ORDER["lines"], "customer": ORDER["customer"]}, indent=2),
        headers={**headers, "Content-Type": "application/json; charset=utf-8"},
    )
    assert (first.status_code, again.status_code, otherwise.status_code) == (201, 201, 201)
    assert first.content == again.content == otherwise.content
    assert first.headers["location"] == again.headers["location"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == otherwise.headers["idempotency-replayed"] == "true"
    assert written(dsn) == (1, 1, 1)


def test_the_same_key_with_another_body_is_a_422(function: FunctionProcess, dsn: str) -> None:
    headers = {"Idempotency-Key": "order-1"}
    assert function.http.post("/orders", json=ORDER, headers=headers).status_code == 201
    answer = function.http.post("/orders", json={**ORDER, "customer": "Bob"}, headers=headers)
    assert answer.status_code == 422
    assert problem(answer)["field"] == "Idempotency-Key"
    assert written(dsn) == (1, 1, 1)


def test_an_expired_key_places_a_new_order(function: FunctionProcess, dsn: str) -> None:
    headers = {"Idempotency-Key": "order-1"}
    first = function.http.post("/orders", json=ORDER, headers=headers).json()
    with psycopg.connect(dsn) as conn:
        conn.execute("UPDATE idempotency_keys SET expires_at = clock_timestamp()")
    second = function.http.post("/orders", json={**ORDER, "customer": "Bob"}, headers=headers)
    assert second.status_code == 201
    assert second.json()["order_id"] != first["order_id"]
    assert written(dsn) == (2, 2, 1)


def test_expired_keys_are_forgotten_and_others_kept(tmp_path: Path, settings: dict[str, str], own_dsn: str) -> None:
    with psycopg.connect(own_dsn) as conn:
        conn.execute("""
            INSERT INTO idempotency_keys (endpoint, key, fingerprint, order_id, expires_at)
            SELECT 'POST /orders', n::text, '', gen_random_uuid(),
                   clock_timestamp() + make_interval(secs => n - 2500)
            FROM generate_series(1, 2600) AS n""")
    with running(MODULE, tmp_path, settings) as process:
        process.wait_ready()
        expired = "SELECT count(*) FROM idempotency_keys WHERE key::integer <= 2490"
        poll(lambda: rows(own_dsn, expired) == [(0,)], what="2490 keys to be forgotten")
        assert rows(own_dsn, "SELECT count(*) FROM idempotency_keys WHERE key::integer > 2550") == [(50,)]
        assert process.stop() == 0


def test_concurrent_use_of_one_key_places_one_order(function: FunctionProcess, dsn: str) -> None:
    start = threading.Barrier(8)

    def place() -> httpx.Response:
        with httpx.Client(base_url=function.http.base_url, trust_env=False) as http:
            http.get("/healthz")
            start.wait()
            return http.post("/orders", json=ORDER, headers={"Idempotency-Key": "order-1"})

    with ThreadPoolExecutor(8) as threads:
        answers = [future.result() for future in [threads.submit(place) for _ in range(8)]]
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.json()["order_id"] for answer in answers if answer.status_code == 201}) == 1
    assert sum(answer.status_code == 201 and "idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert written(dsn) == (1, 1, 1)


def test_a_key_whose_request_has_not_ended_is_a_409(function: FunctionProcess, dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('POST /orders order-1', 0))")
        answer = function.http.post("/orders", json=ORDER, headers={"Idempotency-Key": "order-1"})
        assert answer.status_code == 409
        assert int(answer.headers["retry-after"]) >= 1
        assert problem(answer)["field"] == "Idempotency-Key"
        assert function.http.post("/orders", json=ORDER, headers={"Idempotency-Key": "order-2"}).status_code == 201
    assert function.http.post("/orders", json=ORDER, headers={"Idempotency-Key": "order-1"}).status_code == 201


BAD_BODIES = {
    "no JSON": b"order",
    "no body": b"",
    "an array": b"[]",
    "a wrong type": b'{"customer": 7, "lines": []}',
    "an unknown field": json.dumps({**ORDER, "note": "quick"}).encode(),
    "no lines": json.dumps({**ORDER, "lines": []}).encode(),
    "quantity 0": json.dumps(ORDER).replace("2,", "0,", 1).encode(),
    "quantity huge": json.dumps(ORDER).replace("2,", "9" * 30 + ",", 1).encode(),
    "a lone surrogate": b'{"customer": "\\ud800", "lines": []}',
    "NUL": json.dumps({**ORDER, "customer": "A\x00"}).encode(),
    "deep nesting": b'{"customer":' + b"[" * 50_000,
    "broken UTF-8": b'{"customer": "\xff", "lines": []}',
}


def test_bad_input_is_a_problem_and_nothing_is_written(function: FunctionProcess, dsn: str) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": "order-1"}
    for what, body in BAD_BODIES.items():
        answer = function.http.post("/orders", content=body, headers=headers)
        assert 400 <= answer.status_code < 500, what
        assert problem(answer)["field"], what
    assert written(dsn) == (0, 0, 0)
    # A refused request leaves its key unused.
    assert function.http.post("/orders", json=ORDER, headers=headers).status_code == 201


def test_a_bad_key_is_a_400(function: FunctionProcess, dsn: str) -> None:
    for key in ("", "a b", "a" * 256, "a\tb"):
        answer = function.http.post("/orders", json=ORDER, headers={"Idempotency-Key": key})
        assert answer.status_code == 400
        assert problem(answer)["field"] == "Idempotency-Key"
    assert written(dsn) == (0, 0, 0)


def test_a_body_not_declared_as_json_is_a_415(function: FunctionProcess) -> None:
    for headers in (
        {"Content-Type": "text/plain"},
        {"Content-Type": ""},
        {"Content-Type": "application/jsonx"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ):
        answer = function.http.post("/orders", content=json.dumps(ORDER), headers=headers)
        assert answer.status_code == 415
        assert problem(answer)["field"] in {"Content-Type", "Content-Encoding"}


def chunks_of(size: int) -> Iterator[bytes]:
    for _ in range(size // 50_000):
        yield b" " * 50_000


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_ten_megabytes_is_a_413(function: FunctionProcess, dsn: str, chunked: bool) -> None:
    content: Any = chunks_of(10_000_000) if chunked else b" " * 10_000_000
    answer = function.http.post("/orders", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert problem(answer)["field"] == "body"
    assert written(dsn) == (0, 0, 0)
    assert function.http.post("/orders", json=ORDER).status_code == 201


def test_a_body_that_never_ends_is_not_read_beyond_the_limit(function: FunctionProcess) -> None:
    with raw(function) as sock:
        sock.sendall(b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        sock.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(40):
            sock.sendall(b"2710\r\n" + b" " * 10_000 + b"\r\n")
        head = sock.recv(65536)
        assert head.startswith(b"HTTP/1.1 413")
        # The rest never comes; the connection ends all the same.
        while sock.recv(65536):
            pass


def raw(function: FunctionProcess) -> socket.socket:
    address = urlsplit(str(function.http.base_url))
    return socket.create_connection((address.hostname or "", address.port or 0), timeout=30)


def test_a_head_without_end_is_refused(function: FunctionProcess) -> None:
    with raw(function) as endless:
        endless.sendall(b"POST /orders HTTP/1.1\r\n" + b"X-Filler: %b\r\n" % (b"x" * 990) * 80)
        assert endless.recv(65536).startswith(b"HTTP/1.1 431")
    assert function.http.post("/orders", json=ORDER).status_code == 201


REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = (SELECT code FROM refusal); END $$;
CREATE TABLE refusal (code text);
INSERT INTO refusal VALUES ('');
CREATE TRIGGER refuse BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION refuse()"""


def test_a_database_that_cannot_commit_is_a_503_and_nothing_is_written(function: FunctionProcess, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(REFUSE)
        for code in ("53100", "53200", "53300", "40001", "40P01", "55P03", "58030", "42501"):
            conn.execute("UPDATE refusal SET code = %s", (code,))
            answer = function.http.post("/orders", json=ORDER, headers={"Idempotency-Key": f"order-{code}"})
            assert answer.status_code == 503, code
            assert int(answer.headers["retry-after"]) >= 1
            assert problem(answer)["type"].endswith("cannot-commit")
            assert code in problem(answer)["detail"]
        conn.execute("UPDATE refusal SET code = '22012'")
        answer = function.http.post("/orders", json=ORDER)
        assert answer.status_code == 500
        assert problem(answer)["type"].endswith("internal-error")
        assert written(dsn) == (0, 0, 0)
        conn.execute("DROP TRIGGER refuse ON orders")
    assert function.http.post("/orders", json=ORDER).status_code == 201


def test_a_client_that_goes_away_mid_body_leaves_nothing(function: FunctionProcess, dsn: str) -> None:
    before = function.log.read_text().count('"stack"')
    with raw(function) as sock:
        sock.sendall(b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        sock.sendall(b"Content-Length: 100\r\n\r\n{")
    assert function.http.post("/orders", json=ORDER).status_code == 201
    assert written(dsn)[0] == 1
    assert function.log.read_text().count('"stack"') == before


def test_wrong_methods_and_paths_are_problems(function: FunctionProcess) -> None:
    for method, path, allowed in [("PUT", "/orders", "POST"), ("GET", "/orders", "POST"), ("POST", "/healthz", "GET")]:
        answer = function.http.request(method, path)
        assert answer.status_code == 405
        assert allowed in answer.headers["allow"]
        problem(answer)
    for path in ("/", "/order", "/orders/", f"/orders/{uuid4()}/lines"):
        answer = function.http.get(path)
        assert answer.status_code == 404
        problem(answer)


def test_health_metrics_and_the_openapi_document_are_there(function: FunctionProcess) -> None:
    assert function.http.get("/healthz").json() == {"status": "ok"}
    function.http.post("/orders", json=ORDER)
    metrics = function.http.get("/metrics")
    assert 'outhaul_http_requests_total{route="POST /orders",status="201"}' in metrics.text
    document = function.http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {
        "/orders",
        "/orders/{order_id}",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
    }
    responses = document["paths"]["/orders"]["post"]["responses"]
    assert set(responses) == {"201", "400", "408", "409", "413", "415", "422", "500", "503"}


def test_it_starts_without_the_database_and_comes_back_with_it(
    tmp_path: Path, settings: dict[str, str], own_dsn: str
) -> None:
    parts = urlsplit(own_dsn)
    with Proxy(parts.hostname or "", parts.port or 5432) as proxy, ExitStack() as stack:
        proxy.stop()
        away = {**settings, "OUTHAUL_ORDER_DATABASE_URL": through_port(own_dsn, proxy.port)}
        process = stack.enter_context(running(MODULE, tmp_path, away))
        process.wait_alive()
        ready = process.http.get("/readyz")
        assert ready.status_code == 503
        problem(ready)
        answer = process.http.post("/orders", json=ORDER)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert problem(answer)["type"].endswith("cannot-commit")
        proxy.start()
        process.wait_ready()
        assert process.http.post("/orders", json=ORDER).status_code == 201
        assert process.stop() == 0


def test_a_database_that_falls_silent_is_a_503_and_no_order_is_doubled(
    tmp_path: Path, settings: dict[str, str], own_dsn: str
) -> None:
    parts = urlsplit(own_dsn)
    headers = {"Idempotency-Key": "order-1"}
    with Proxy(parts.hostname or "", parts.port or 5432) as proxy, ExitStack() as stack:
        through = {
            **settings,
            "OUTHAUL_ORDER_DATABASE_URL": through_port(own_dsn, proxy.port)
            + "?tcp_user_timeout=2000&connect_timeout=2",
            "OUTHAUL_DATABASE_TIMEOUT": "500ms",
        }
        process = stack.enter_context(running(MODULE, tmp_path, through))
        process.wait_ready()
        proxy.blackhole()
        answer = process.http.post("/orders", json=ORDER, headers=headers)
        assert answer.status_code == 503
        assert problem(answer)["type"].endswith("outcome-unknown")
        assert UUID(problem(answer)["order_id"]).version == 7
        proxy.heal()
        # What was held back arrives now: the order may be there, and the key finds it.
        again = poll(lambda: accepted(process, headers), seconds=30, what="the order")
        assert again is not None
        assert written(own_dsn) == (1, 1, 1)


def accepted(process: FunctionProcess, headers: dict[str, str]) -> httpx.Response | None:
    answer = process.http.post("/orders", json=ORDER, headers=headers)
    return answer if answer.status_code == 201 else None


def test_connections_the_server_closed_are_replaced_unseen(function: FunctionProcess, dsn: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: function.http.post("/orders", json=ORDER), range(50)))
    with psycopg.connect(dsn, autocommit=True) as conn:
        ended = [
            pid
            for pid, _ in conn.execute(
                "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        ]
        assert ended
        left = "SELECT pid FROM pg_stat_activity WHERE pid = ANY(%s)"
        poll(lambda: not conn.execute(left, (ended,)).fetchall(), what="the connections' end")
    answers = [function.http.post("/orders", json=ORDER).status_code for _ in range(10)]
    assert answers == [201] * 10


def test_a_database_that_is_read_only_is_a_503(own: FunctionProcess, own_dsn: str) -> None:
    name = urlsplit(own_dsn).path[1:]
    with psycopg.connect(own_dsn, autocommit=True) as conn:
        conn.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'.encode())
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    def refused() -> httpx.Response | None:
        answer = own.http.post("/orders", json=ORDER)
        return answer if answer.status_code == 503 and "25006" in answer.text else None

    answer = poll(refused, what="a refusal")
    assert answer is not None
    assert problem(answer)["type"].endswith("cannot-commit")
    assert answer.headers["retry-after"]
    assert own.http.get("/readyz").status_code == 503


def test_a_database_without_the_tables_is_not_ready_and_says_what_to_run(
    tmp_path: Path, settings: dict[str, str], make_database: MakeDatabase
) -> None:
    empty = make_database(())
    with running(MODULE, tmp_path, {**settings, "OUTHAUL_ORDER_DATABASE_URL": empty}) as process:
        process.wait_alive()
        ready = process.http.get("/readyz")
        assert ready.status_code == 503
        assert "outhaul schema apply --component order" in problem(ready)["detail"]
        assert process.http.post("/orders", json=ORDER).status_code == 503


def test_requests_beyond_the_pool_wait_a_while_and_are_then_refused(
    tmp_path: Path, settings: dict[str, str], own_dsn: str
) -> None:
    with (
        running(MODULE, tmp_path, {**settings, "OUTHAUL_DATABASE_POOL_SIZE": "1"}) as process,
        ThreadPoolExecutor(2) as threads,
    ):
        process.wait_ready()
        with psycopg.connect(own_dsn) as conn:
            conn.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
            first = threads.submit(process.http.post, "/orders", json=ORDER)
            poll(lambda: rows(own_dsn, WAITING)[0][0] == 1, what="the order to wait for the table")
            second = process.http.post("/orders", json=ORDER)
            assert second.status_code == 503
            assert problem(second)["type"].endswith("cannot-commit")
        assert first.result().status_code == 201
        assert rows(own_dsn, "SELECT count(*) FROM orders") == [(1,)]


def test_a_statement_that_does_not_end_is_given_up(tmp_path: Path, settings: dict[str, str], own_dsn: str) -> None:
    with running(MODULE, tmp_path, {**settings, "OUTHAUL_DATABASE_TIMEOUT": "500ms"}) as process:
        process.wait_ready()
        with psycopg.connect(own_dsn) as conn:
            conn.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
            answer = process.http.post("/orders", json=ORDER)
            assert answer.status_code == 503
            assert problem(answer)["type"].endswith("cannot-commit")
        assert process.http.post("/orders", json=ORDER).status_code == 201
        assert written(own_dsn)[0] == 1


WAITING = """
SELECT count(*) FROM pg_locks JOIN pg_database AS d ON d.oid = database
WHERE NOT granted AND datname = current_database()"""


def test_sigterm_finishes_what_was_begun_and_ends_with_0(own: FunctionProcess, own_dsn: str) -> None:
    with psycopg.connect(own_dsn) as conn, ThreadPoolExecutor(1) as threads:
        conn.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        pending = threads.submit(own.http.post, "/orders", json=ORDER)
        poll(lambda: rows(own_dsn, WAITING)[0][0] == 1, what="the order to wait for the table")
        own.process.terminate()
        address = urlsplit(str(own.http.base_url))
        poll(lambda: refuses(address.hostname or "", address.port or 0), what="the port to close")
        conn.rollback()
        assert pending.result().status_code == 201
    assert own.process.wait(timeout=20) == 0
    assert written(own_dsn)[:2] == (1, 1)


def refuses(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"OUTHAUL_ORDER_DATABASE_URL": ""}, "OUTHAUL_ORDER_DATABASE_URL"),
        ({"OUTHAUL_ORDER_DATABASE_URL": "mysql://x"}, "OUTHAUL_ORDER_DATABASE_URL"),
        ({"OUTHAUL_AMQP_URL": "http://x"}, "OUTHAUL_AMQP_URL"),
        ({"OUTHAUL_HTTP_PORT": "80808"}, "OUTHAUL_HTTP_PORT"),
        ({"OUTHAUL_HTTP_PORT": "http"}, "OUTHAUL_HTTP_PORT"),
        ({"OUTHAUL_HTTP_HOST": "256.0.0.1"}, "OUTHAUL_HTTP_HOST"),
        ({"OUTHAUL_DRAIN_TIMEOUT": "20"}, "OUTHAUL_DRAIN_TIMEOUT"),
        ({"OUTHAUL_IDEMPOTENCY_KEEP": "soon"}, "OUTHAUL_IDEMPOTENCY_KEEP"),
        ({"OUTHAUL_LOG_LEVEL": "loud"}, "OUTHAUL_LOG_LEVEL"),
    ],
)
def test_a_bad_setting_is_refused_at_start_in_one_line(
    settings: dict[str, str], changes: dict[str, str], named: str
) -> None:
    ended = subprocess.run(
        command(MODULE),
        env=environment({**settings, **changes}),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.returncode == 2
    assert named in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "Traceback" not in ended.stderr


def test_a_taken_port_is_refused_at_start(settings: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            command(MODULE),
            env=environment({**settings, "OUTHAUL_HTTP_PORT": port}),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert ended.returncode == 2
    assert f"OUTHAUL_HTTP_PORT='{port}'" in ended.stderr


def test_an_unknown_setting_is_warned_about_with_the_nearest(tmp_path: Path, settings: dict[str, str]) -> None:
    with running(MODULE, tmp_path, {**settings, "OUTHAUL_HTTP_PROT": "1"}) as process:
        process.wait_alive()
        assert "did you mean OUTHAUL_HTTP_PORT?" in process.log.read_text()

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from outhaul.database import runs
from outhaul.errors import ConfigurationError

Connection = psycopg.Connection[Any]


@pytest.fixture(params=["outbox", "inbox"])
def conn(request: pytest.FixtureRequest) -> Iterator[Connection]:
    with psycopg.connect(request.getfixturevalue(f"{request.param}_dsn"), autocommit=True) as opened:
        yield opened


def begin(conn: Connection, run_id: str = "a", **parts: Any) -> runs.Run:
    return runs.start(conn, **{"run_id": run_id, "kind": "k", "actor": "me", "request": {"x": 1}, **parts})


def test_a_run_is_recorded_from_start_to_end(conn: Connection) -> None:
    assert begin(conn).state == runs.RUNNING
    runs.progress(conn, "a", {"moved": 1})
    runs.finish(conn, "a", state=runs.DONE, counts={"moved": 2}, detail="why")
    found = runs.get(conn, "a")
    assert found is not None
    assert (found.state, found.counts, found.detail, found.actor) == ("done", {"moved": 2}, "why", "me")
    assert found.finished_at is not None
    assert found.finished_at >= found.started_at


def test_a_run_that_is_done_is_over_for_good(conn: Connection) -> None:
    begin(conn)
    runs.finish(conn, "a", state=runs.DONE, counts={"moved": 2})
    again = begin(conn, actor="somebody else")
    assert again.is_over
    assert (again.counts, again.actor) == ({"moved": 2}, "me")


@pytest.mark.parametrize("state", ["running", "failed"])
def test_a_run_that_was_cut_short_goes_on_with_its_counts(conn: Connection, state: str) -> None:
    begin(conn)
    runs.progress(conn, "a", {"moved": 2})
    if state == "failed":
        runs.finish(conn, "a", state=runs.FAILED, counts={"moved": 2})
    again = begin(conn)
    assert not again.is_over
    assert (again.state, again.counts, again.finished_at) == ("running", {"moved": 2}, None)


@pytest.mark.parametrize("parts", [{"kind": "other"}, {"request": {"x": 2}}], ids=["kind", "request"])
def test_an_id_that_stands_for_another_request_is_refused(conn: Connection, parts: dict[str, Any]) -> None:
    begin(conn)
    with pytest.raises(ConfigurationError, match="another request"):
        begin(conn, **parts)


@pytest.mark.parametrize("run_id", ["", "x" * 121, "a\nb", "a\x00b"])
def test_an_id_that_cannot_be_one_is_refused(conn: Connection, run_id: str) -> None:
    with pytest.raises(ConfigurationError, match="--run-id"):
        begin(conn, run_id)


def test_the_latest_runs_come_first_and_without_their_lists_of_letters(conn: Connection) -> None:
    for name in ("a", "b", "c"):
        begin(conn, name)
    begin(conn, "b/1", kind="dlq-discard.letters")
    assert [run.run_id for run in runs.recent(conn, 2)] == ["c", "b"]


def test_the_actor_is_who_the_environment_says_else_the_user() -> None:
    assert runs.actor_name({"OUTHAUL_ACTOR": "redrive/shop"}) == "redrive/shop"
    assert "@" in runs.actor_name({})

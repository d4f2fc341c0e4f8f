"""The audit record: what people and Jobs did on purpose, in the table `runs` of the database they worked on.

A run has an id that its caller may choose. The same id again is the same decision: a run that is *done* is
never done again, one that was cut short goes on from the counts it had reached. So every moving command is
harmless when started twice.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString
from uuid import uuid4

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from outhaul.errors import ConfigurationError

Connection = psycopg.Connection[Any]

RUNNING, DONE, FAILED = "running", "done", "failed"
RUN_ID_CHARACTERS = 120

_START = """
INSERT INTO runs (run_id, kind, actor, request) VALUES (%s, %s, %s, %s)
ON CONFLICT (run_id) DO UPDATE SET state = 'running', finished_at = NULL
WHERE runs.state <> 'done' AND runs.kind = excluded.kind AND runs.request = excluded.request"""
_PROGRESS = "UPDATE runs SET counts = %s WHERE run_id = %s"
_FINISH = """
UPDATE runs SET state = %s, counts = %s, detail = %s, finished_at = clock_timestamp() WHERE run_id = %s"""
_GET = """
SELECT run_id, kind, actor, request, state, counts, detail, started_at, finished_at
FROM runs WHERE run_id = %s"""
# (ids,) -> a Run each, as far as they exist
GET_MANY: Final[LiteralString] = """
SELECT run_id, kind, actor, request, state, counts, detail, started_at, finished_at
FROM runs WHERE run_id = ANY(%s::text[])"""
# The lists of letters that a long discard leaves behind are not runs of their own.
_RECENT = """
SELECT run_id, kind, actor, request, state, counts, detail, started_at, finished_at
FROM runs WHERE kind NOT LIKE '%%.letters' ORDER BY started_at DESC LIMIT %s"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One row of `runs`. ``request`` is what was asked, ``counts`` how far it came."""

    run_id: str
    kind: str
    actor: str
    request: dict[str, Any]
    state: str
    counts: dict[str, Any]
    detail: str | None
    started_at: datetime
    finished_at: datetime | None

    @property
    def is_over(self) -> bool:
        """Whether this decision has been carried out in full and must not be again."""
        return self.state == DONE


def actor_name(environ: Mapping[str, str] = os.environ) -> str:
    """Who is acting, for the record: `OUTHAUL_ACTOR` where set (a Job names its resource), else user@host."""
    given = environ.get("OUTHAUL_ACTOR", "").strip()
    if given:
        return given[:200]
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's numeric user without a passwd entry
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def new_run_id(kind: str) -> str:
    """An id for a run whose caller chose none."""
    return f"{kind}-{uuid4()}"


def start(conn: Connection, *, run_id: str, kind: str, actor: str, request: Mapping[str, Any]) -> Run:
    """Record that the run begins, or find the run of that id: look at ``is_over`` before doing anything.

    A run found unfinished or failed is set to running again and keeps its counts. Raises ConfigurationError
    where the id already belongs to another request: two decisions must not share one record.
    """
    if not run_id or len(run_id) > RUN_ID_CHARACTERS or not run_id.isprintable():
        raise ConfigurationError("--run-id", run_id[:60], f"use 1 to {RUN_ID_CHARACTERS} printable characters")
    conn.execute(_START, (run_id, kind, actor, Jsonb(dict(request))))
    run = get(conn, run_id)
    if run is None:
        raise ConfigurationError("--run-id", run_id, "its record was removed meanwhile; use another id")
    if run.kind != kind or run.request != dict(request):
        raise ConfigurationError(
            "--run-id",
            run_id,
            f"belongs to another request ({run.kind} by {run.actor}); use an id of its own",
        )
    return run


def progress(conn: Connection, run_id: str, counts: Mapping[str, Any]) -> None:
    """Record how far the run has come; what is counted here is not done again by a restart."""
    conn.execute(_PROGRESS, (Jsonb(dict(counts)), run_id))


def finish(conn: Connection, run_id: str, *, state: str, counts: Mapping[str, Any], detail: str | None = None) -> None:
    """Record the end of the run: ``state`` is DONE or FAILED. A failed run may be started again."""
    conn.execute(
        _FINISH,
        (state, Jsonb(dict(counts)), detail, run_id),
    )


def get(conn: Connection, run_id: str) -> Run | None:
    """The run of that id."""
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        return cursor.execute(_GET, (run_id,)).fetchone()


def recent(conn: Connection, limit: int = 5) -> list[Run]:
    """The latest runs, newest first."""
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        return cursor.execute(_RECENT, (limit,)).fetchall()

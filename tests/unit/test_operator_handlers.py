"""kopf only watches: no handler of a kind that writes onto objects, and nothing but hints to the loop."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import kopf
import pytest

from operator_support import UID
from outhaul_operator.handlers import Memo, job_event, make_registry, make_settings, object_event
from outhaul_operator.jobs import OWNER_LABEL
from outhaul_operator.loop import Body
from outhaul_operator.specs import API_VERSION


class Heard:
    """What the handlers told the loop and the looks."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def saw(self, body: Body, *, listed: bool = False) -> None:
        self.told.append(("saw", body, listed))

    def gone(self, uid: str) -> None:
        self.told.append(("gone", uid))

    def nudge(self, uid: str) -> None:
        self.told.append(("nudge", uid))

    def heard_of_job(self, owner: str, name: str, *, at_work: bool, settled: bool) -> None:
        self.told.append(("job", owner, name, at_work, settled))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def memo(heard: Heard) -> Memo:
    both: Any = heard
    return Memo(loop=both, looking=both)


def test_only_handlers_that_write_nothing_are_registered() -> None:
    registry = make_registry()
    watched = {handler.selector.plural for handler in registry._watching.get_all_handlers() if handler.selector}
    names = {handler.selector.any_name for handler in registry._watching.get_all_handlers() if handler.selector}
    assert {"outboxes", "inboxes", "resends", "redrives", "jobs"} == (watched | names) - {None}
    for writing in (registry._changing, registry._spawning, registry._webhooks):
        assert not list(writing.get_all_handlers())


def test_kopf_is_told_to_post_nothing_and_to_look_for_nothing() -> None:
    settings = make_settings(timeout_seconds=5.0)
    assert not settings.posting.enabled
    assert settings.scanning.disabled
    assert settings.peering.standalone


def test_its_patience_with_the_api_server_does_not_end() -> None:
    backoffs = make_settings(timeout_seconds=5.0).networking.error_backoffs
    assert not isinstance(backoffs, float)
    assert len(list(itertools.islice(backoffs, 1000))) == 1000
    assert next(iter(backoffs)) < 1, "each request begins anew"


def test_importing_the_handlers_registers_none() -> None:
    assert not list(kopf.get_default_registry()._watching.get_all_handlers())


@pytest.mark.parametrize(("kind", "listed"), [(None, True), ("ADDED", False), ("MODIFIED", False)])
def test_an_object_is_handed_on_without_what_is_kept_for_kubectl(
    heard: Heard, memo: Memo, kind: str | None, listed: bool
) -> None:
    meta = {"uid": UID, "name": "orders", "managedFields": [{}], "annotations": {"last-applied": "{}"}}
    asyncio.run(object_event({"type": kind, "object": {"kind": "Outbox", "metadata": meta, "spec": {}}}, memo))
    [(_, body, was_listed)] = heard.told
    assert body == {"kind": "Outbox", "metadata": {"uid": UID, "name": "orders"}, "spec": {}}
    assert was_listed is listed


def test_a_deleted_object_is_gone(heard: Heard, memo: Memo) -> None:
    asyncio.run(object_event({"type": "DELETED", "object": {"metadata": {"uid": UID}}}, memo))
    assert heard.told == [("gone", UID)]


COMPLETE = {"conditions": [{"type": "Complete", "status": "True"}]}
JOB: dict[str, Any] = {
    "name": "outbox-0a1b2c3d-g1-r1-0",
    "labels": {OWNER_LABEL: UID},
    "ownerReferences": [{"apiVersion": API_VERSION, "kind": "Outbox", "uid": UID}],
}
ENDING = {"conditions": [{"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Complete", "status": "False"}]}


@pytest.mark.parametrize(
    ("kind", "spec", "status", "at_work", "settled"),
    [
        ("ADDED", {}, {}, True, False),
        ("MODIFIED", {}, ENDING, True, False),
        ("MODIFIED", {}, COMPLETE, False, False),
        ("MODIFIED", {"ttlSecondsAfterFinished": 3600}, COMPLETE, False, True),
        ("DELETED", {}, {}, False, True),
        (None, {}, {"conditions": [{"type": "Failed", "status": "True"}]}, False, False),
    ],
)
def test_a_job_has_its_owner_looked_at(
    heard: Heard, memo: Memo, kind: str | None, spec: Any, status: Any, at_work: bool, settled: bool
) -> None:
    job = {"metadata": JOB, "spec": spec, "status": status}
    asyncio.run(job_event({"type": kind, "object": job}, memo))
    assert heard.told == [("job", UID, JOB["name"], at_work, settled), ("nudge", UID)]


@pytest.mark.parametrize(
    "meta",
    [
        {"ownerReferences": []},
        {"ownerReferences": [{"apiVersion": "apps/v1", "uid": UID}]},
        {"labels": {OWNER_LABEL: "ffffffff-4e5f-6789-abcd-ef0123456789"}},
        {"labels": None},
    ],
)
def test_a_job_that_somebody_labelled_by_hand_is_nobodys(heard: Heard, memo: Memo, meta: dict[str, Any]) -> None:
    asyncio.run(job_event({"type": "ADDED", "object": {"metadata": {**JOB, **meta}}}, memo))
    assert heard.told == []

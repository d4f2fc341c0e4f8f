"""A look is carried out in an order that a crash, a conflict or a stale body cannot harm."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest

from operator_support import AWAY, CALM_BROKER, NOW, UID, condition, database
from outhaul.alerts import Alerter
from outhaul.errors import Unreachable
from outhaul_operator.conditions import instant
from outhaul_operator.domain.rounds import Round
from outhaul_operator.jobs import JobSettings
from outhaul_operator.looking import Looking, StatusRefused
from outhaul_operator.metrics import OperatorMetrics
from outhaul_operator.plan import EventNote, Tend
from outhaul_operator.ports import BrokerUrls, Refused
from outhaul_operator.seeing import Seeing
from outhaul_operator.slots import Slots
from outhaul_operator.snapshot import BrokerView, InboxDatabase, JobView, OutboxDatabase, Trouble
from outhaul_operator.specs import Target
from support import poll
from webhook_support import webhook

URL = "postgresql://shop:geheim@db/shop"


def body(uid: str = UID, *, name: str = "orders", version: int = 1, status: Any = None) -> dict[str, Any]:
    meta = {"uid": uid, "name": name, "namespace": "shop", "resourceVersion": str(version), "generation": 1}
    refs = {"databaseSecretRef": {"name": "ways"}, "brokerSecretRef": {"name": "ways"}}
    return {"kind": "Outbox", "metadata": meta, "spec": refs, **({} if status is None else {"status": status})}


@dataclass
class World:
    """An API server, a database and a broker as far as a look asks of them. ``done`` is what was asked, in order."""

    stored: dict[str, dict[str, Any]] = field(default_factory=dict)
    secrets: Mapping[str, str] | Trouble = field(default_factory=lambda: {"url": URL})
    database: OutboxDatabase | Trouble = field(default_factory=database)
    broker: BrokerView | Trouble = CALM_BROKER
    jobs: dict[str, JobView] = field(default_factory=dict)
    refusal: Trouble | None = None
    away_at: str = ""
    done: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    untended: Trouble | None = None

    def _ask(self, what: str) -> None:
        self.done.append(what)
        if what == self.away_at:
            raise Unreachable("api:6443", "connection refused")

    async def secret(self, namespace: str, name: str) -> Mapping[str, str] | Trouble:
        return self.secrets

    async def config_map(self, namespace: str, name: str) -> Mapping[str, str] | Trouble:
        return {}

    async def body(self, kind: str, namespace: str, name: str) -> Mapping[str, Any] | Trouble | None:
        self._ask("body")
        return self.stored.get(name)

    async def jobs_of(self, target: Target) -> tuple[JobView, ...] | Trouble:
        self._ask("jobs_of")
        return tuple(self.jobs.values())

    async def write_status(self, target: Target, status: Mapping[str, Any]) -> str | Refused:
        self._ask("write_status")
        if self.refusal is not None and self.refusal.reason == "Forbidden":
            return Refused(self.refusal)
        known = self.stored[target.name]
        if known["metadata"]["resourceVersion"] != target.resource_version:
            return Refused(Trouble("Conflict", "changed meanwhile"), conflict=True)
        version = str(int(target.resource_version) + (known.get("status") != status))
        self.stored[target.name] = {
            **known,
            "metadata": {**known["metadata"], "resourceVersion": version},
            "status": dict(status),
        }
        return version

    async def create_job(self, target: Target, manifest: Mapping[str, Any]) -> Refused | None:
        self._ask("create_job")
        if self.refusal is not None:
            return Refused(self.refusal)
        name = manifest["metadata"]["name"]
        self.jobs.setdefault(name, JobView(name=name))
        return None

    async def set_ttl(self, target: Target, job: str, seconds: int) -> Refused | None:
        self._ask("set_ttl")
        return None

    async def event(self, target: Target, note: EventNote) -> None:
        self._ask("event")
        self.told.append(note.reason)

    async def look_at_outbox(
        self, url: str, *, stuck_after_seconds: float, run_ids: Sequence[str]
    ) -> OutboxDatabase | Trouble:
        self._ask("database")
        return self.database

    async def look_at_inbox(self, url: str, *, consumer: str, run_ids: Sequence[str]) -> InboxDatabase | Trouble:
        return AWAY

    async def tend_history(self, url: str, tend: Tend) -> Trouble | None:
        self._ask("tend")
        return self.untended

    async def look(self, urls: BrokerUrls, **_: Any) -> BrokerView | Trouble:
        self._ask("broker")
        return self.broker


@dataclass
class Clock:
    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


def looking(
    world: World, *, most_jobs: int = 10, clock: Clock | None = None, alerter: Alerter | None = None
) -> Looking:
    return Looking(
        Seeing(world, world, world, timeout_seconds=1.0),
        job_settings=JobSettings(image="outhaul/operator:dev", service_account="outhaul-job"),
        slots=Slots(most_jobs),
        alerter=alerter or Alerter(),
        metrics=OperatorMetrics(),
        now=clock or Clock(),
    )


def stuck_world(**changes: Any) -> World:
    return World(stored={"orders": body()}, database=database(stuck=5), **changes)


def test_the_status_says_what_was_decided_before_the_job_is_made() -> None:
    world = stuck_world()
    looked = asyncio.run(looking(world).look(world.stored["orders"], 0.0))

    steps = [step for step in world.done if step in {"write_status", "create_job", "event", "tend"}]
    assert steps == ["write_status", "create_job", "event", "tend"]
    assert looked.body is not None
    assert looked.body["metadata"]["resourceVersion"] == "2"
    [name] = world.jobs
    assert name in Round.from_status(looked.body["status"]["resend"]).names(UID)  # type: ignore[union-attr] # a round


def test_after_a_conflict_nothing_is_made_and_the_object_is_looked_at_as_it_is_now() -> None:
    world = stuck_world()
    world.stored["orders"] = body(version=9, status={"pending": 5})
    looked = asyncio.run(looking(world).look(body(version=3), 0.0))

    assert "create_job" not in world.done
    assert looked.body == world.stored["orders"]
    assert looked.again_seconds < 1


def test_a_stale_body_makes_no_job_even_if_its_status_would_stay_the_same() -> None:
    """A round that a cache holds for open is over, its Job deleted by its ttl: its work must not be done twice."""
    world, clock = stuck_world(away_at="create_job"), Clock()
    look = looking(world, clock=clock)
    with pytest.raises(Unreachable):
        asyncio.run(look.look(world.stored["orders"], 0.0))
    stale = world.stored["orders"]
    over = {**stale["status"], "resend": {**stale["status"]["resend"], "state": "Succeeded"}}
    world.stored["orders"] = body(version=8, status=over)
    world.away_at, world.done = "", []

    looked = asyncio.run(look.look(stale, 0.0))
    assert world.done[-2:] == ["write_status", "body"]
    assert world.jobs == {}
    assert looked.body == world.stored["orders"]


def test_a_job_that_could_not_be_made_is_made_by_the_next_look_under_its_name() -> None:
    world = stuck_world(away_at="create_job")
    look = looking(world)
    with pytest.raises(Unreachable):
        asyncio.run(look.look(world.stored["orders"], 0.0))
    decided = Round.from_status(world.stored["orders"]["status"]["resend"])
    assert decided is not None
    world.away_at = ""
    asyncio.run(look.look(world.stored["orders"], 0.0))
    assert tuple(world.jobs) == decided.names(UID)


def test_a_refused_job_is_told_by_the_look_that_follows_at_once() -> None:
    world = stuck_world(refusal=Trouble("JobRefused", "the quota of the namespace is used up"))
    look = looking(world)
    looked = asyncio.run(look.look(world.stored["orders"], 0.0))
    assert looked.again_seconds < 1

    looked = asyncio.run(look.look(world.stored["orders"], 0.0))
    assert looked.again_seconds > 1
    conditions = {each["type"]: each for each in world.stored["orders"]["status"]["conditions"]}
    assert conditions["Draining"]["reason"] == "JobRefused"
    assert "quota" in conditions["Draining"]["message"]
    assert world.jobs == {}


def test_where_the_status_may_not_be_written_no_job_is_made() -> None:
    world = stuck_world(refusal=Trouble("Forbidden", "may not update the status"))
    with pytest.raises(StatusRefused, match="may not update"):
        asyncio.run(looking(world).look(world.stored["orders"], 0.0))
    assert "create_job" not in world.done


def test_a_calm_outbox_is_looked_at_without_asking_for_jobs_or_writing_anything() -> None:
    world = World(stored={"orders": body()})
    look = looking(world)
    for _ in range(2):  # the second says that the history was tended
        asyncio.run(look.look(world.stored["orders"], 0.0))
    world.done = []
    looked = asyncio.run(look.look(world.stored["orders"], 0.0))
    assert world.done == ["database", "broker"]
    assert looked.body is None


def test_a_secret_that_is_not_allowed_leads_nowhere() -> None:
    world = stuck_world(secrets=Trouble("SecretNotAllowed", "Secret ways does not carry the label"))
    asyncio.run(looking(world).look(world.stored["orders"], 0.0))
    assert "database" not in world.done
    assert world.jobs == {}
    assert "geheim" not in repr(world.stored)


def test_all_outboxes_together_have_no_more_jobs_than_allowed() -> None:
    other = "ffffffff-4e5f-6789-abcd-ef0123456789"
    world = stuck_world()
    world.stored["others"] = body(other, name="others")
    look = looking(world, most_jobs=1)
    asyncio.run(look.look(world.stored["orders"], 0.0))
    [first] = world.jobs.values()
    world.jobs.clear()
    asyncio.run(look.look(world.stored["others"], 0.0))
    assert world.jobs == {}
    conditions = {each["type"]: each for each in world.stored["others"]["status"]["conditions"]}
    assert conditions["Draining"]["reason"] == "WaitsForOtherJobs"

    look.forget(world.stored["orders"])
    asyncio.run(look.look(world.stored["others"], 0.0))
    [second] = world.jobs
    assert second != first.name


def test_jobs_that_ran_before_the_operator_started_count_too() -> None:
    world = stuck_world()
    look = looking(world, most_jobs=1)
    other = "ffffffff-4e5f-6789-abcd-ef0123456789"
    look.heard_of_job(other, "outbox-ffffffff-g1-r1-0", at_work=True, settled=False)
    asyncio.run(look.look(world.stored["orders"], 0.0))
    assert world.jobs == {}

    look.forget(body(other, name="others"))
    asyncio.run(look.look(world.stored["orders"], 0.0))
    assert len(world.jobs) == 1


def test_a_job_that_outlives_its_owner_holds_no_place_once_it_is_gone() -> None:
    """Its MODIFIED comes after the owner is forgotten, and no look will ever correct what it took."""
    world = stuck_world()
    look = looking(world, most_jobs=1)
    gone = "ffffffff-4e5f-6789-abcd-ef0123456789"
    name = "outbox-ffffffff-g1-r1-0"
    look.forget(body(gone, name="others"))
    look.heard_of_job(gone, name, at_work=True, settled=False)
    look.heard_of_job(gone, name, at_work=False, settled=True)
    asyncio.run(look.look(world.stored["orders"], 0.0))
    assert len(world.jobs) == 1


@pytest.mark.parametrize("spoil", ["spec", "rights"])
def test_an_outbox_that_nothing_can_be_decided_about_holds_no_place(spoil: str) -> None:
    world = stuck_world()
    look = looking(world, most_jobs=1)
    asyncio.run(look.look(world.stored["orders"], 0.0))
    [name] = world.jobs
    look.heard_of_job(UID, name, at_work=False, settled=True)

    async def forbidden(target: Target) -> tuple[JobView, ...] | Trouble:
        return Trouble("Forbidden", "the operator may not list Jobs and their pods")

    spoilt = world.stored["orders"]
    if spoil == "spec":
        spoilt = {**spoilt, "spec": {**spoilt["spec"], "interval": "soon"}}
    else:
        world.jobs_of = forbidden  # type: ignore[method-assign] # of this world alone
    asyncio.run(look.look(spoilt, 0.0))

    other = stuck_world()
    world.jobs_of = other.jobs_of  # type: ignore[method-assign] # as before
    world.stored["others"] = body("ffffffff-4e5f-6789-abcd-ef0123456789", name="others")
    asyncio.run(look.look(world.stored["others"], 0.0))
    assert any(each.startswith("outbox-ffffffff") for each in world.jobs)


def test_a_job_whose_result_is_not_in_the_status_yet_is_asked_for() -> None:
    world = World(stored={"orders": body()})
    look = looking(world)
    look.heard_of_job(UID, "outbox-0a1b2c3d-g1-r1-0", at_work=False, settled=False)
    asyncio.run(look.look(world.stored["orders"], 0.0))
    assert "jobs_of" in world.done
    look.heard_of_job(UID, "outbox-0a1b2c3d-g1-r1-0", at_work=False, settled=True)
    world.done = []
    asyncio.run(look.look(world.stored["orders"], 0.0))
    assert "jobs_of" not in world.done


def test_an_object_not_heard_of_for_long_is_asked_for() -> None:
    world = World()
    looked = asyncio.run(looking(world).look(body(), 1000.0))
    assert looked.gone
    assert world.done == ["body"]


def test_another_object_of_the_same_name_is_not_the_one_that_was_known() -> None:
    world = World(stored={"orders": body("ffffffff-4e5f-6789-abcd-ef0123456789")})
    assert asyncio.run(looking(world).look(body(), 1000.0)).gone


def test_an_object_whose_jobs_may_not_be_listed_says_so_and_starts_none() -> None:
    world = stuck_world()

    async def forbidden(target: Target) -> tuple[JobView, ...] | Trouble:
        return Trouble("Forbidden", "the operator may not list Jobs and their pods")

    world.jobs_of = forbidden  # type: ignore[method-assign] # of this world alone
    looked = asyncio.run(looking(world).look(world.stored["orders"], 0.0))
    conditions = {each["type"]: each for each in world.stored["orders"]["status"]["conditions"]}
    assert conditions["Ready"]["reason"] == "Forbidden"
    assert world.jobs == {}
    assert looked.again_seconds <= 60


def test_the_history_is_tended_once_an_hour_and_the_status_says_so_once_it_is_done() -> None:
    world, clock = World(stored={"orders": body()}), Clock()
    look = looking(world, clock=clock)
    looked = asyncio.run(look.look(world.stored["orders"], 0.0))
    assert "tendedAt" not in world.stored["orders"]["status"]
    assert looked.again_seconds < 1
    for minutes in (1, 59, 61, 62):
        clock.now = NOW + timedelta(minutes=minutes)
        asyncio.run(look.look(world.stored["orders"], 0.0))
    assert world.done.count("tend") == 2
    assert world.stored["orders"]["status"]["tendedAt"] == instant(NOW + timedelta(minutes=61))


def test_a_history_that_cannot_be_tended_is_told_and_tried_again_before_the_hour_is_over() -> None:
    world, clock = World(stored={"orders": body()}), Clock()
    world.untended = Trouble("Locked", "canceling statement due to lock timeout")
    look = looking(world, clock=clock)
    for seconds in (0, 1, 200, 301):
        clock.now = NOW + timedelta(seconds=seconds)
        asyncio.run(look.look(world.stored["orders"], 0.0))
    assert world.done.count("tend") == 2
    told = condition(world.stored["orders"]["status"], "HistoryTended")
    assert (told["status"], told["reason"]) == ("False", "Locked")
    assert "tendedAt" not in world.stored["orders"]["status"]
    assert condition(world.stored["orders"]["status"], "Ready")["status"] == "True"
    assert world.told.count("Locked") == 1
    world.untended = None
    for seconds in (700, 701):
        clock.now = NOW + timedelta(seconds=seconds)
        asyncio.run(look.look(world.stored["orders"], 0.0))
    assert world.stored["orders"]["status"]["tendedAt"] == instant(NOW + timedelta(seconds=700))
    assert world.told[-1] == "HistoryTended"


def test_an_alert_is_resolved_once_when_it_is_over_and_when_its_object_goes() -> None:
    with webhook() as told:
        alerter = Alerter(told.url, group_wait_seconds=0.0, group_interval_seconds=0.0)
        world = World(stored={"orders": body()}, database=database(parked=2))
        look = looking(world, alerter=alerter)

        def states() -> list[str]:
            return [alert["status"] for alert in told.alerts if alert["labels"]["alertname"] == "OuthaulParked"]

        asyncio.run(look.look(world.stored["orders"], 0.0))
        poll(lambda: states() == ["firing"], what="the alert")
        world.database = database()
        for _ in range(3):
            asyncio.run(look.look(world.stored["orders"], 0.0))
        poll(lambda: states() == ["firing", "resolved"], what="its end")
        world.database = database(parked=2)
        asyncio.run(look.look(world.stored["orders"], 0.0))
        poll(lambda: states() == ["firing", "resolved", "firing"], what="the alert again")
        look.forget(world.stored["orders"])
        poll(lambda: states() == ["firing", "resolved", "firing", "resolved"], what="its end with the object")
        alerter.close()

"""When objects are looked at: at once, on their interval, with backoff, never one on account of another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from outhaul_operator.loop import Body, Look, Looked, LookLoop
from outhaul_operator.metrics import OperatorMetrics
from support import apoll


def body(uid: str, *, version: int = 1, generation: int = 1) -> dict[str, Any]:
    meta = {"uid": uid, "name": uid, "namespace": "n", "resourceVersion": str(version), "generation": generation}
    return {"kind": "Outbox", "metadata": meta}


@dataclass
class Looks:
    """Remembers who was looked at; ``then`` may do more."""

    again_seconds: float = 3600.0
    then: Callable[[str], Awaitable[None]] | None = None
    seen: list[tuple[str, str]] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)

    async def __call__(self, body: Body, _age_seconds: float) -> Looked:
        meta = body["metadata"]
        self.seen.append((meta["uid"], meta["resourceVersion"]))
        if self.then is not None:
            await self.then(meta["uid"])
        return Looked(self.again_seconds)

    def forget(self, body: Body) -> None:
        self.forgotten.append(body["metadata"]["uid"])

    def of(self, uid: str) -> int:
        return sum(1 for each, _ in self.seen if each == uid)


@asynccontextmanager
async def looping(look: Look, looks: Looks, **settings: Any) -> AsyncIterator[LookLoop]:
    loop = LookLoop(look, forget=looks.forget, metrics=OperatorMetrics(), **settings)
    task = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        await loop.stop()
        await asyncio.wait_for(task, 5)


def test_a_new_object_is_looked_at_at_once_and_one_that_stays_as_it_is_only_once() -> None:
    async def scenario() -> None:
        looks = Looks()
        async with looping(looks, looks) as loop:
            loop.saw(body("a"))
            await apoll(lambda: looks.of("a") == 1, seconds=2)
            loop.saw(body("a", version=2))  # its status changed: that was the operator itself, or of no concern
            loop.saw(body("b"))
            await apoll(lambda: looks.of("b") == 1, seconds=2)
            assert looks.of("a") == 1

    asyncio.run(scenario())


def test_a_changed_spec_is_looked_at_at_once_with_the_newest_body() -> None:
    async def scenario() -> None:
        looks = Looks()
        async with looping(looks, looks) as loop:
            loop.saw(body("a"))
            await apoll(lambda: looks.of("a") == 1, seconds=2)
            loop.saw(body("a", version=7, generation=2))
            await apoll(lambda: looks.seen[-1] == ("a", "7"), seconds=2)
            loop.saw(body("a", version=6))  # a watch that lags behind
            loop.nudge("a")
            await apoll(lambda: looks.of("a") == 3, seconds=2)
            assert looks.seen[-1] == ("a", "7")

    asyncio.run(scenario())


def test_an_object_is_looked_at_again_on_its_interval() -> None:
    async def scenario() -> None:
        looks = Looks(again_seconds=0.05)
        async with looping(looks, looks) as loop:
            loop.saw(body("a"))
            await apoll(lambda: looks.of("a") >= 4, seconds=3)

    asyncio.run(scenario())


def test_the_dead_hosts_of_some_delay_nobody_else() -> None:
    async def scenario() -> None:
        never = asyncio.Event()

        async def dead(uid: str) -> None:
            if uid.startswith("dead"):
                await never.wait()

        looks = Looks(again_seconds=0.1, then=dead)
        async with looping(looks, looks, concurrency=6, deadline_seconds=0.3) as loop:
            for number in range(5):
                loop.saw(body(f"dead{number}"))
            for number in range(20):
                loop.saw(body(f"live{number}"))
            await apoll(lambda: all(looks.of(f"live{number}") >= 5 for number in range(20)), seconds=10)
            await apoll(lambda: all(looks.of(f"dead{number}") >= 1 for number in range(5)), seconds=10)

    asyncio.run(scenario())


def test_a_look_that_fails_is_tried_again_and_ends_nothing() -> None:
    async def scenario() -> None:
        async def failing(uid: str) -> None:
            if uid == "bad" and looks.of("bad") < 3:
                raise RuntimeError("out of order")

        looks = Looks(then=failing)
        async with looping(looks, looks) as loop:
            loop.saw(body("bad"))
            loop.saw(body("good"))
            await apoll(lambda: looks.of("good") == 1 and looks.of("bad") == 3, seconds=10)

    asyncio.run(scenario())


def test_what_happens_during_a_look_is_looked_at_soon_after_it() -> None:
    async def scenario() -> None:
        go_on = asyncio.Event()

        async def slow(_uid: str) -> None:
            await go_on.wait()

        looks = Looks(then=slow)
        async with looping(looks, looks) as loop:
            loop.saw(body("a"))
            await apoll(lambda: looks.of("a") == 1, seconds=2)
            loop.nudge("a")
            go_on.set()
            await apoll(lambda: looks.of("a") == 2, seconds=3)

    asyncio.run(scenario())


def test_a_deleted_object_is_forgotten_even_in_the_middle_of_a_look() -> None:
    async def scenario() -> None:
        ended: list[str] = []

        async def slow(uid: str) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(uid)

        looks = Looks(then=slow)
        async with looping(looks, looks) as loop:
            loop.saw(body("a"))
            await apoll(lambda: looks.of("a") == 1, seconds=2)
            loop.gone("a")
            await apoll(lambda: ended == ["a"], seconds=2)
            assert looks.forgotten == ["a"]
            assert loop.objects == 0
            loop.gone("a")
            loop.nudge("a")
            assert looks.forgotten == ["a"]

    asyncio.run(scenario())


def test_an_object_the_api_server_does_not_know_is_forgotten() -> None:
    async def scenario() -> None:
        looks = Looks()

        async def vanished(_body: Body, _age_seconds: float) -> Looked:
            return Looked(1.0, gone=True)

        async with looping(vanished, looks) as loop:
            loop.saw(body("a"))
            await apoll(lambda: looks.forgotten == ["a"], seconds=2)
            assert loop.objects == 0

    asyncio.run(scenario())


def test_objects_found_at_start_are_spread_and_one_made_now_is_not() -> None:
    async def scenario() -> None:
        looks = Looks()
        async with looping(looks, looks, spread_seconds=600.0) as loop:
            for number in range(50):
                loop.saw(body(f"old{number}"), listed=True)
            loop.saw(body("new"))
            await apoll(lambda: looks.of("new") == 1, seconds=2)
            assert len(looks.seen) < 10

    asyncio.run(scenario())


def test_it_stops_soon_though_looks_hang() -> None:
    async def scenario() -> float:
        async def hang(_uid: str) -> None:
            await asyncio.Event().wait()

        looks = Looks(then=hang)
        loop = LookLoop(looks, forget=looks.forget, metrics=OperatorMetrics())
        task = asyncio.create_task(loop.run())
        for number in range(10):
            loop.saw(body(f"a{number}"))
        await apoll(lambda: len(looks.seen) == 10, seconds=2)
        started = time.monotonic()
        await loop.stop()
        await asyncio.wait_for(task, 5)
        return time.monotonic() - started

    assert asyncio.run(scenario()) < 2


def test_the_heartbeat_is_young_while_looks_hang_and_ages_when_the_loop_does_not_turn() -> None:
    async def scenario() -> None:
        async def hang(_uid: str) -> None:
            await asyncio.Event().wait()

        looks = Looks(then=hang)
        async with looping(looks, looks, concurrency=1) as loop:
            loop.saw(body("a"))
            loop.saw(body("b"))
            await apoll(lambda: loop.overdue_seconds > 3, seconds=10)
            assert loop.heartbeat_age_seconds < 2.5
        await apoll(lambda: loop.heartbeat_age_seconds > 1.5, seconds=5)

    asyncio.run(scenario())

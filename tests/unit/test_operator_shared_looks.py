from __future__ import annotations

import asyncio

import pytest

from outbox_support import in_loop
from outhaul_operator.adapters.shared_looks import SharedLooks


class Maker:
    """Counts how often it is asked; answers when let."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.asked += 1
        number = self.asked
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return number


def keep(_: int) -> float:
    return 60.0


def forget(_: int) -> float:
    return 0.0


@in_loop
async def test_all_who_ask_at_once_get_one_answer() -> None:
    looks, maker = SharedLooks(), Maker()
    maker.may_answer.clear()
    asking = [asyncio.create_task(looks.get("key", maker, keep_seconds=forget)) for _ in range(10)]
    await asyncio.sleep(0)
    maker.may_answer.set()
    assert await asyncio.gather(*asking) == [1] * 10
    assert await looks.get("key", maker, keep_seconds=forget) == 2


@in_loop
async def test_an_answer_is_kept_for_as_long_as_is_said() -> None:
    looks, maker = SharedLooks(), Maker()
    assert [await looks.get("key", maker, keep_seconds=keep) for _ in range(3)] == [1, 1, 1]
    assert await looks.get("other", maker, keep_seconds=keep) == 2


@in_loop
async def test_a_failure_is_told_and_not_kept() -> None:
    looks, maker = SharedLooks(), Maker()
    maker.error = ValueError("no")
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            await looks.get("key", maker, keep_seconds=keep)
    maker.error = None
    assert await looks.get("key", maker, keep_seconds=keep) == 3


@in_loop
async def test_one_who_gives_up_takes_nothing_from_the_others() -> None:
    looks, maker = SharedLooks(), Maker()
    maker.may_answer.clear()
    impatient = asyncio.create_task(looks.get("key", maker, keep_seconds=keep))
    patient = asyncio.create_task(looks.get("key", maker, keep_seconds=keep))
    await asyncio.sleep(0)
    impatient.cancel()
    maker.may_answer.set()
    assert await patient == 1


@in_loop
async def test_what_nobody_asks_for_any_more_is_forgotten() -> None:
    looks, maker = SharedLooks(), Maker()
    for number in range(1000):
        await looks.get(number, maker, keep_seconds=forget)
    assert len(looks._made) <= 256
    await looks.close()

"""Rows handed over in one moment are published together, in order, and none waits when nothing is on its way."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

from outhaul.amqp.outgoing import NO_HEADERS
from outhaul.database.outbox_store import OutboxRow
from outhaul.sending.handover import Gathering
from support import apoll

Rows = list[tuple[OutboxRow, float]]


def row(seq: int) -> OutboxRow:
    return OutboxRow(
        uuid4(),
        seq,
        "shop.events",
        "order.created",
        "shop.order.created.v1",
        "shop",
        str(seq),
        b"{}",
        "application/json",
        NO_HEADERS,
        None,
        None,
        datetime.now(UTC),
        0,
        uuid4(),
    )


def numbers(released: list[Rows]) -> list[list[int]]:
    return [[each.seq for each, _ in rows] for rows in released]


def test_a_row_alone_goes_at_once() -> None:
    released: list[Rows] = []
    gathering = Gathering(released.append)
    gathering.add(row(1), 60.0, at_once=True)
    assert numbers(released) == [[1]]
    assert len(gathering) == 0


def test_rows_of_one_moment_go_together_in_order() -> None:
    async def hand_over() -> list[Rows]:
        released: list[Rows] = []
        gathering = Gathering(released.append)
        for seq in range(5):
            gathering.add(row(seq), 60.0 + seq, at_once=False)
        assert len(gathering) == 5
        assert released == []
        await apoll(lambda: released)
        assert [expires_at for _, expires_at in released[0]] == [60.0, 61.0, 62.0, 63.0, 64.0]
        return released

    assert numbers(asyncio.run(hand_over())) == [[0, 1, 2, 3, 4]]


def test_a_row_that_may_go_at_once_takes_along_those_that_wait() -> None:
    async def hand_over() -> list[Rows]:
        released: list[Rows] = []
        gathering = Gathering(released.append)
        gathering.add(row(1), 60.0, at_once=False)
        gathering.add(row(2), 60.0, at_once=True)
        gathering.add(row(3), 60.0, at_once=False)
        gathering.end()
        gathering.end()
        return released

    assert numbers(asyncio.run(hand_over())) == [[1, 2], [3]]

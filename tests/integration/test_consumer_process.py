"""Consumers that are killed, that hang, and that are stopped, as processes of their own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consuming import DELAYS, QUEUE, Shop, body, opened_shop
from outhaul.consuming.watchdog import HANDLER_TIMEOUT_EXIT_CODE
from support import BrokerUnderTest, poll

SCRIPT = Path(__file__).parent.parent / "consuming_process.py"


class Fleet:
    """Processes that are all gone at the end of the test."""

    def __init__(self, shop: Shop, folder: Path) -> None:
        self.shop = shop
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, **settings: Any) -> subprocess.Popen[bytes]:
        given = {
            "queue": QUEUE,
            "dsn": self.shop.database.dsn,
            "amqp_url": self.shop.broker.amqp_url,
            "delays": DELAYS,
            "shutdown_seconds": 5.0,
            **settings,
        }
        with (self.folder / str(len(self.started))).open("wb") as log:
            process = subprocess.Popen([sys.executable, str(SCRIPT), json.dumps(given)], stderr=log)
        self.started.append(process)
        return process

    def log(self, process: subprocess.Popen[bytes]) -> str:
        return (self.folder / str(self.started.index(process))).read_text()

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        poll(lambda: "consuming" in self.log(process), seconds=20, what="the consumer consuming")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 0, self.log(process)

    def end(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()


@pytest.fixture
def fleet(broker: BrokerUnderTest, inbox_dsn: str, tmp_path: Path) -> Iterator[Fleet]:
    with opened_shop(broker, inbox_dsn) as shop:
        fleet = Fleet(shop, tmp_path)
        try:
            yield fleet
        finally:
            fleet.end()


def test_a_message_that_kills_its_consumer_takes_no_innocent_with_it(fleet: Fleet) -> None:
    shop = fleet.shop
    shop.send(20)
    shop.send(1, first=100, do="die")
    shop.send(20, first=21)
    exits = []
    while True:
        process = fleet.start(max_crashes=2)
        poll(lambda: process.poll() is not None or shop.depth(f"{QUEUE}.dlq"), seconds=20, what="an end")  # noqa: B023 - polled at once
        if process.poll() is None:
            break
        exits.append(process.returncode)
        assert process.returncode == 9, fleet.log(process)
    assert 2 <= len(exits) <= 4
    poll(lambda: len(shop.database.effects()) == 40, what="the innocents' effects")
    fleet.stop(process)
    assert shop.database.effects() == list(range(1, 41))
    [(headers, content)] = shop.take(f"{QUEUE}.dlq")
    assert headers["x-outhaul-reason"] == "crashed"
    assert b'"die"' in content
    assert shop.depth(QUEUE) == 0
    assert shop.database.count("deliveries") == 0


def test_a_handler_that_hangs_ends_its_process_and_is_given_up_at_last(fleet: Fleet) -> None:
    shop = fleet.shop
    shop.send(1, first=100, do="hang")
    shop.send(5)
    process = fleet.start(max_crashes=1, handler_timeout_seconds=0.5)
    assert process.wait(timeout=20) == HANDLER_TIMEOUT_EXIT_CODE
    assert "a handler has run for more than 0.5 s" in fleet.log(process)
    assert shop.database.query("SELECT started, last_error FROM deliveries") == [
        (1, "the handler ran into its timeout")
    ]
    process = fleet.start(max_crashes=1, handler_timeout_seconds=0.5)
    [(headers, _)] = shop.wait_for_letters(1)
    assert headers["x-outhaul-reason"] == "crashed"
    poll(lambda: shop.database.effects() == [1, 2, 3, 4, 5], what="the innocents' effects")
    fleet.stop(process)


def test_sigterm_drains_and_redelivers_nothing_that_was_committed(fleet: Fleet) -> None:
    shop = fleet.shop
    shop.send(1000, do="slow")
    process = fleet.start()
    poll(lambda: len(shop.database.effects()) > 100, seconds=20, what="work under way")
    fleet.stop(process)
    done = shop.database.effects()
    assert len(set(done)) == len(done) < 1000
    waiting = [json.loads(content)["data"]["order"] for _, content in shop.take(QUEUE)]
    assert sorted(done + waiting) == list(range(1, 1001))
    assert shop.database.count("deliveries") == 0


def test_three_rolling_restarts_under_load_lose_and_dead_letter_nothing(fleet: Fleet) -> None:
    shop = fleet.shop
    fleet_of = [fleet.start(), fleet.start()]
    first = 1
    for _ in range(3):
        for place in (0, 1):
            shop.send(150, first=first, do="slow" if place else None)
            first += 150
            poll(shop.database.effects, seconds=20, what="work under way")
            leaving = fleet_of[place]
            fleet_of[place] = fleet.start()
            fleet.stop(leaving)
    poll(lambda: len(shop.database.effects()) >= first - 1, seconds=30, what="all effects")
    for process in fleet_of:
        fleet.stop(process)
    assert shop.database.effects() == list(range(1, first))
    assert shop.depth(QUEUE) == 0
    assert shop.depth(f"{QUEUE}.dlq") == 0
    assert shop.database.count("deliveries") == 0


def test_consumers_killed_again_and_again_have_each_effect_once(fleet: Fleet) -> None:
    shop = fleet.shop
    shop.publish(*(body({"order": number})[1] for number in range(1, 1501)))
    seen = 0
    for _ in range(4):
        process = fleet.start()
        poll(lambda: len(shop.database.effects()) > seen, seconds=20, what="progress")  # noqa: B023 - polled at once
        process.kill()
        process.wait()
        seen = len(shop.database.effects())
    process = fleet.start()
    poll(lambda: len(shop.database.effects()) >= 1500, seconds=30, what="all effects")
    fleet.stop(process)
    assert shop.database.effects() == list(range(1, 1501))
    assert shop.depth(f"{QUEUE}.dlq") == 0
    assert shop.database.count("deliveries") == 0

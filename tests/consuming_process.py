"""A consumer as a process of its own, for tests that end it in every way. Run as a script with settings as JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any

import psycopg

from outhaul import Consumer, Retry
from outhaul.events import Event

TYPE = "shop.order.created.v1"


def handle(message: Event, tx: psycopg.Connection[Any]) -> None:
    tx.execute("INSERT INTO effects (number) VALUES (%s)", (message.data["order"],))
    deed = message.data.get("do")
    if deed == "die":
        os._exit(9)
    while deed == "hang":
        time.sleep(60)
    if deed == "slow":
        time.sleep(0.003)


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    settings = json.loads(sys.argv[1])
    retry = Retry(delays=tuple(settings.pop("delays")), max_attempts=3)
    consumer = Consumer("shipping", retry=retry, **settings)
    consumer.handler(TYPE)(handle)
    consumer.run()


if __name__ == "__main__":
    main()

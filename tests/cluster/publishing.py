"""A publisher that keeps count of what was confirmed to it, for tests that disturb the broker meanwhile."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Self

import pika
from pika.exceptions import AMQPError

from cluster.pulumi_stage import connect


@dataclass
class PublishLoad:
    """Publishes one message after the other, mandatory and confirmed; to another node when its own leaves."""

    url: str
    acked: list[str] = field(default_factory=list)
    longest_gap_seconds: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._publish)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()

    def _publish(self) -> None:
        number, last = 0, time.monotonic()
        while not self._stop.is_set():
            try:
                connection = connect(self.url)
                channel = connection.channel()
                channel.confirm_delivery()
                while not self._stop.wait(0.005):
                    name, number = f"m{number}", number + 1
                    channel.basic_publish(
                        "outhaul.events",
                        "order.created",
                        name.encode(),
                        pika.BasicProperties(delivery_mode=2),
                        mandatory=True,
                    )
                    self.acked.append(name)
                    now = time.monotonic()
                    self.longest_gap_seconds, last = max(self.longest_gap_seconds, now - last), now
                connection.close()
            except (AMQPError, OSError):
                continue


def drained(url: str, queue: str) -> set[str]:
    """The bodies of what is in the queue, taken out of it."""
    connection = connect(url)
    channel = connection.channel()
    found: set[str] = set()
    for method, _, body in channel.consume(queue, auto_ack=True, inactivity_timeout=5):
        if method is None:
            break
        found.add((body or b"").decode())
    connection.close()
    return found

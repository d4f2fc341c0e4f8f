"""Points at which a test makes a process die or stand still: between two steps that a crash must not tear apart.

Nothing happens at any of them unless a function was told so by the test setting ``OUTHAUL_TEST_FAILPOINTS``. While it
was not, passing a point is a call of an empty function.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from outhaul.configuration.durations import parse_duration
from outhaul.configuration.urls import nearest
from outhaul.errors import ConfigurationError

_log = logging.getLogger(__name__)

SETTING: Final = "OUTHAUL_TEST_FAILPOINTS"
_ENTRY: Final = re.compile(
    r"(?P<point>[^=@]+)=(?P<action>kill|stop|pause:(?P<pause>[0-9a-z.]+))(?:@(?P<at>[1-9]\d{0,8}))?"
)
_WAY_OUT: Final = "write point=kill, point=stop or point=pause:2s, each with @3 for the third time, separated by commas"


def _pass() -> None:
    """Nobody asked for anything here."""


class Failpoint:
    """A named point; whoever passes it calls ``hit()``."""

    __slots__ = ("hit", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.hit: Callable[[], None] = _pass


COMMIT_ANSWER = Failpoint("commit-answer")  # an order is committed; its client is not told, nobody has its row
COMMIT_PUBLISH = Failpoint("commit-publish")  # a row is committed and leased to this sender, and not published
PUBLISH_CONFIRM = Failpoint("publish-confirm")  # the broker has answered for a message, and nobody looked at it
CONFIRM_MARK = Failpoint("confirm-mark")  # rows are confirmed, and not marked sent
INSERT_COMMIT = Failpoint("insert-commit")  # inbox rows and effects are written, and not committed
COMMIT_ACK = Failpoint("commit-ack")  # effects are committed, and their messages not acknowledged
LETTER_ACK = Failpoint("letter-ack")  # a retry or dead letter is confirmed, and its message not acknowledged

ORDER_POINTS: Final = (COMMIT_ANSWER, COMMIT_PUBLISH, PUBLISH_CONFIRM, CONFIRM_MARK)
"""Those that a process with a sender and the order function's requests passes."""
CONSUMER_POINTS: Final = (INSERT_COMMIT, COMMIT_ACK, PUBLISH_CONFIRM, LETTER_ACK)
"""Those that a consumer passes; it publishes retries and dead letters."""


class Trigger(NamedTuple):
    """What is to happen at a point, the ``at``-th time that it is passed, and at no other.

    ``signal_number`` is sent to this process, or, where it is None, the thread that passes waits ``pause_seconds``.
    """

    point: Failpoint
    action: str
    signal_number: signal.Signals | None
    pause_seconds: float
    at: int

    def __str__(self) -> str:
        return f"{self.point.name}={self.action}@{self.at}"


def parse(text: str, *, setting: str = SETTING, offered: Sequence[Failpoint]) -> tuple[Trigger, ...]:
    """Triggers as ``confirm-mark=kill@3,commit-ack=pause:2s`` names them; none for an empty text.

    Raises ConfigurationError for what is malformed, named twice, or not a point that this process ever passes.
    """
    triggers: dict[str, Trigger] = {}
    points = {point.name: point for point in offered}
    for entry in text.split(",") if text.strip() else ():
        found = _ENTRY.fullmatch(entry.strip())
        if found is None:
            raise ConfigurationError(setting, entry.strip()[:80], _WAY_OUT)
        name, pause = found["point"].strip(), found["pause"]
        if name not in points:
            near = nearest(name, points)
            meant = f"did you mean {near}? " if near else ""
            raise ConfigurationError(setting, name[:80], f"{meant}this process passes {', '.join(points)}")
        if name in triggers:
            raise ConfigurationError(setting, name, "is named twice; one thing can happen at a point")
        number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}.get(found["action"])
        seconds = 0.0 if pause is None else parse_duration(pause, setting=setting)
        triggers[name] = Trigger(points[name], found["action"], number, seconds, int(found["at"] or 1))
    return tuple(triggers.values())


def arm(triggers: Sequence[Trigger]) -> None:
    """From now on these happen. Said in a warning, so that nobody has them on by accident."""
    for trigger in triggers:
        _log.warning("a test setting makes this process fail on purpose: %s", trigger)
        trigger.point.hit = _armed(trigger)


def _armed(trigger: Trigger) -> Callable[[], None]:
    numbers = itertools.count(1)  # points are passed by several threads, and this is counted in one step

    def hit() -> None:
        if next(numbers) != trigger.at:
            return
        _log.warning("failpoint reached: %s", trigger)
        if trigger.signal_number is None:
            time.sleep(trigger.pause_seconds)
        else:
            os.kill(os.getpid(), trigger.signal_number)

    return hit

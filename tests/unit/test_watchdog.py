from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from consuming import delivery
from outhaul import events
from outhaul.consuming.watchdog import HANDLER_TIMEOUT_EXIT_CODE, Watchdog, check_handler_timeout
from outhaul.errors import ConfigurationError
from outhaul.events import Event
from support import poll


def event() -> Event:
    return events.decode(delivery().body)


class Recorder:
    def __init__(self, error: Exception | None = None, *, stuck: bool = False) -> None:
        self.recorded: list[Event] = []
        self.left: list[int] = []
        self.error = error
        self.released = threading.Event()
        if not stuck:
            self.released.set()

    def record(self, running: Sequence[Event]) -> None:
        self.recorded += running
        self.released.wait(10)
        if self.error:
            raise self.error


@contextmanager
def watching(recorder: Recorder, seconds: float) -> Iterator[Watchdog]:
    watchdog = Watchdog(seconds, record=recorder.record, leave=recorder.left.append)
    watchdog.start()
    try:
        yield watchdog
    finally:
        recorder.released.set()
        watchdog.stop()


def test_a_handler_that_takes_too_long_is_recorded_and_ends_the_process() -> None:
    recorder, running = Recorder(), event()
    with watching(recorder, 0.05) as watchdog:
        watchdog.begin([running])
        assert watchdog.is_busy
        poll(lambda: recorder.left, what="the end")
    assert recorder.left == [HANDLER_TIMEOUT_EXIT_CODE] == [70]
    assert recorder.recorded == [running]


def test_handlers_that_come_back_in_time_are_left_alone() -> None:
    recorder = Recorder()
    with watching(recorder, 0.2) as watchdog:
        for _ in range(30):
            watchdog.begin([event()])
            threading.Event().wait(0.01)
            watchdog.end()
        assert not watchdog.is_busy
    assert recorder.left == []


def test_a_hang_that_cannot_be_recorded_ends_the_process_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Recorder(OSError("the database is away"))
    with watching(failing, 0.05) as watchdog:
        watchdog.begin([event()])
        poll(lambda: failing.left, what="the end")
    monkeypatch.setattr("outhaul.consuming.watchdog.RECORD_SECONDS", 0.1)
    stuck = Recorder(stuck=True)
    with watching(stuck, 0.05) as watchdog:
        watchdog.begin([event()])
        poll(lambda: stuck.left, what="the end")


@pytest.mark.parametrize("seconds", [0, -1, 901])
def test_a_timeout_too_near_the_brokers_is_refused(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="handler_timeout_seconds"):
        check_handler_timeout(seconds, 1800)
    check_handler_timeout(900, 1800)

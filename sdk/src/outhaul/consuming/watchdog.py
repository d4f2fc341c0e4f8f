"""A handler that hangs holds its messages until the broker takes them back, and nobody is told. So the process ends.

Python cannot end a thread. The crash counter does the rest: the message comes back redelivered, is run alone, and is
dead-lettered once it has ended its consumer often enough.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence

from outhaul.errors import ConfigurationError
from outhaul.events import Event

_log = logging.getLogger(__name__)

HANDLER_TIMEOUT_EXIT_CODE = 70
"""The process's exit code after a handler ran into its timeout (EX_SOFTWARE of sysexits.h)."""

RECORD_SECONDS = 5.0


def check_handler_timeout(handler_timeout_seconds: float, broker_consumer_timeout_seconds: float) -> None:
    """Refuse a timeout the broker's own would beat: it would take the messages back under a handler that still runs.

    Twice, because a message may have waited its turn behind another one's timeout.
    """
    if handler_timeout_seconds <= 0:
        raise ConfigurationError("handler_timeout_seconds", handler_timeout_seconds, "must be above 0")
    if handler_timeout_seconds * 2 > broker_consumer_timeout_seconds:
        raise ConfigurationError(
            "handler_timeout_seconds",
            handler_timeout_seconds,
            f"must be at most half of the broker's consumer timeout ({broker_consumer_timeout_seconds:g} s)",
        )


class Watchdog:
    """Ends the process when one handler call takes longer than ``timeout_seconds``.

    ``record(events)`` writes down what was running, in a thread of its own and for at most 5 seconds: the database may
    be what it hangs on. ``leave`` is `os._exit`: a hung thread holds locks that any orderly exit would wait for.
    """

    def __init__(
        self,
        timeout_seconds: float,
        *,
        record: Callable[[Sequence[Event]], None],
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._record = record
        self._leave = leave
        self._running: tuple[float, Sequence[Event]] | None = None
        self.ended_at = 0.0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a handler is running now."""
        return self._running is not None

    def begin(self, events: Sequence[Event]) -> None:
        """A handler starts on these."""
        self._running = (time.monotonic(), events)

    def end(self) -> None:
        """It came back."""
        self._running = None
        self.ended_at = time.monotonic()

    def start(self) -> None:
        """Begin to look, ten times in the timeout."""
        self._thread = threading.Thread(target=self._look, name="outhaul handler watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _look(self) -> None:
        while not self._stopped.wait(min(1.0, self._timeout_seconds / 10)):
            running = self._running
            if running is not None and time.monotonic() - running[0] > self._timeout_seconds:
                self._end_process(running[1])
                return

    def _end_process(self, events: Sequence[Event]) -> None:
        ids = ", ".join(str(event.id) for event in events[:10])
        _log.critical(
            "a handler has run for more than %g s with %d message(s) (%s); this process ends with exit code %d",
            self._timeout_seconds,
            len(events),
            ids,
            HANDLER_TIMEOUT_EXIT_CODE,
        )
        recorder = threading.Thread(target=self._record_safely, args=(events,), daemon=True)
        recorder.start()
        recorder.join(RECORD_SECONDS)
        sys.stderr.flush()
        self._leave(HANDLER_TIMEOUT_EXIT_CODE)

    def _record_safely(self, events: Sequence[Event]) -> None:
        try:
            self._record(events)
        except Exception:  # noqa: BLE001 - whatever it is, the process must still end
            _log.exception("the hang could not be recorded")

"""The background process that starts again what died, as long as the installation is meant to be up."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import defaultdict
from datetime import UTC, datetime

from outhaul_local.alerts_log import serve_alerts
from outhaul_local.docker_broker import DockerBroker
from outhaul_local.failure import LocalFailure
from outhaul_local.function_process import FunctionProcess
from outhaul_local.home import Home
from outhaul_local.installation import Installation, Service
from outhaul_local.interrupts import Interrupted, Interrupts
from outhaul_local.restarts import Restarts
from outhaul_local.state import load
from outhaul_local.waiting import TimedOut, wait_for

LOOK_EVERY_SECONDS = 0.2
# Asking Docker costs a process each time.
LOOK_AT_DOCKER_EVERY_SECONDS = 5.0


def supervise(home: Home) -> None:
    """Run until a signal comes, or the installation is no longer meant to be up."""
    with Interrupts() as interrupts, contextlib.suppress(Interrupted):
        Supervisor(home, interrupts).run()
    _say("ended")


class Supervisor:
    """Looks at every service some times a second, and starts the dead ones with growing delays."""

    def __init__(self, home: Home, interrupts: Interrupts) -> None:
        self._home = home
        self._interrupts = interrupts
        self._installation = Installation.open(home)
        self._restarts: defaultdict[str, Restarts] = defaultdict(Restarts)
        self._docker_seen_at = 0.0

    def run(self) -> None:
        """Until the installation is down."""
        port = self._installation.state.alerts_port
        try:
            serve_alerts(port, self._home.logs / "alerts.jsonl")
        except OSError as error:
            _say(f"alerts cannot be received on port {port}: {error}")
        _say("watching")
        while self._look():
            pass

    def _look(self) -> bool:
        """Wait until something is to be started, and start it. Whether the installation is still meant to be up."""
        with contextlib.suppress(TimedOut):  # nothing died: all is well
            wait_for(self._due, seconds=60, what="a death", interval_seconds=LOOK_EVERY_SECONDS)
        if not self._home.folder.is_dir():
            _say(f"{self._home.folder} was removed: stopping everything")
            for service in reversed(self._installation.services()):
                service.stop()
            # The data may lie elsewhere; without the folder's passwords nobody can read it.
            shutil.rmtree(self._installation.servers_folder, ignore_errors=True)
            return False
        try:
            # A command that holds the lock starts and stops things itself: look again when it is done.
            with self._home.lock(seconds=1):
                self._reload()
                if self._installation.state.up:
                    self._start(self._due())
                return self._installation.state.up
        except LocalFailure as failure:
            _say(str(failure))
        return True

    def _reload(self) -> None:
        """Take over what a command changed meanwhile."""
        state = load(self._home)
        if state != self._installation.state:
            self._installation = Installation(self._home, state, self._installation.identity)

    def _due(self) -> list[Service]:
        """The services to start now; all of them to stop when our folder is gone."""
        if not self._home.folder.is_dir():
            return self._installation.services()
        due = []
        for service in self._installation.services():
            restarts = self._restarts[service.title]
            if self._alive(service):
                # A command may have started it.
                restarts.dead = False
            else:
                restarts.found_dead(time.monotonic())
            if restarts.is_due(time.monotonic()):
                due.append(service)
        return due

    def _alive(self, service: Service) -> bool:
        if isinstance(service, DockerBroker):
            now = time.monotonic()
            if now - self._docker_seen_at < LOOK_AT_DOCKER_EVERY_SECONDS:
                return not self._restarts[service.title].dead
            self._docker_seen_at = now
        return service.alive()

    def _start(self, due: list[Service]) -> None:
        for service in due:
            _say(f"{service.title} is dead; starting it")
            try:
                with self._interrupts.held_back():
                    self._restarts[service.title].started(time.monotonic())
                    service.launch()
                    self._installation.record(service)
                # A function gets ready by itself; the servers are what it waits for.
                if not isinstance(service, FunctionProcess):
                    service.await_ready()
                    self._installation.record(service)
            except (LocalFailure, OSError) as failure:
                _say(f"{service.title} cannot be started: {failure}")
            else:
                _say(f"{service.title} is started")


def _say(text: str) -> None:
    print(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {text}", flush=True)  # noqa: T201 - its log

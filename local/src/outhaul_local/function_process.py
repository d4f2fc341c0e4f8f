"""One function as a process: started with the settings it uses and nothing else of our environment."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from outhaul_local import ports
from outhaul_local.failure import LocalFailure
from outhaul_local.processes import ProcessRef, Spawned, spawn, stop
from outhaul_local.waiting import TimedOut, wait_for

READY_SECONDS = 30.0
HUNG_SECONDS = 8.0
STOP_SECONDS = 20.0


@dataclass(slots=True)
class FunctionProcess:
    """`python -m outhaul_<name>` listening on ``port`` of the loopback address."""

    name: str
    port: int
    log: Path
    settings: Mapping[str, str] = field(repr=False)
    process: ProcessRef | None = None
    _spawned: Spawned | None = field(default=None, repr=False)

    @property
    def title(self) -> str:
        """How people call it."""
        return f"{self.name} function"

    @property
    def url(self) -> str:
        """Base URL of its HTTP side."""
        return f"http://{ports.LOOPBACK}:{self.port}"

    def launch(self) -> None:
        """Start the process; it is not ready yet."""
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "OUTHAUL_HTTP_HOST": ports.LOOPBACK,
            "OUTHAUL_HTTP_PORT": str(self.port),
            **self.settings,
        }
        # -P: a folder named operator or outhaul_order in the current folder must not be imported instead.
        command = [sys.executable, "-P", "-m", f"outhaul_{self.name}"]
        self._spawned = spawn(command, environment=environment, log=self.log, folder=self.log.parent)
        self.process = self._spawned.ref

    def await_ready(self) -> None:
        """Wait until ``/readyz`` says yes. The process is stopped if it does not. Raises :class:`LocalFailure`."""
        # One that was there before us has had its time to start.
        patience = READY_SECONDS if self._spawned is not None else HUNG_SECONDS
        last = ["no answer"]

        def ready() -> bool:
            if not self.alive():
                raise LocalFailure(f"the {self.name} function ended while starting", log=self.log)
            try:
                answer = httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False)
            except httpx.HTTPError:
                return False
            last[0] = answer.text[:300]
            return answer.status_code == 200

        try:
            wait_for(ready, seconds=patience, what=f"the {self.name} function's readiness")
        except TimedOut as late:
            self.stop(grace_seconds=1)
            raise LocalFailure(f"{late}; /readyz says: {last[0]}", log=self.log) from late
        except BaseException:
            # Ctrl-C too: what we launched and never saw ready must not stay.
            self.stop()
            raise

    def alive(self) -> bool:
        """Whether its process runs."""
        if self._spawned is not None:
            self._spawned.exit_code()
        return self.process is not None and self.process.alive()

    def stop(self, *, grace_seconds: float = STOP_SECONDS) -> None:
        """SIGTERM, which drains it; SIGKILL at the deadline."""
        if self.process is not None:
            stop(self.process, first=signal.SIGTERM, grace_seconds=grace_seconds, handle=self._spawned)
        self.process = self._spawned = None

"""The operator's Jobs as processes: what Kubernetes would start, with the environment it would give."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outhaul_operator import requests
from outhaul_operator.outcomes import RunReport
from outhaul_operator.requests import RunRequest


@dataclass
class Job:
    """One pod's container. ``environment`` wins over what the request gives; None takes a variable away."""

    request: RunRequest
    database: str
    broker: str
    folder: Path
    run_id: str = "resend-0a1b2c3d-g1"
    environment: Mapping[str, str | None] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    @property
    def report_file(self) -> Path:
        """The pod's termination message."""
        return self.folder / f"{self.run_id}.{id(self)}.json"

    def start(self) -> Job:
        """Begin; returns itself."""
        given: dict[str, str | None] = {
            requests.RUN_ID_VARIABLE: self.run_id,
            requests.ACTOR_VARIABLE: "Resend default/again",
            requests.REQUEST_VARIABLE: json.dumps(self.request.document()),
            requests.DATABASE_VARIABLE: self.database,
            requests.BROKER_VARIABLE: self.broker,
            "OUTHAUL_TERMINATION_LOG": str(self.report_file),
            **self.environment,
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("OUTHAUL_")}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "outhaul_operator.work", self.request.command],
            env={**inherited, **{name: value for name, value in given.items() if value is not None}},
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    def end(self, *, seconds: float = 60) -> tuple[int, RunReport, str]:
        """Wait for it; the exit code, the report and what was logged."""
        assert self.process is not None
        _, log = self.process.communicate(timeout=seconds)
        report = RunReport.from_document(json.loads(self.report_file.read_text()))
        assert report is not None
        assert self.report_file.stat().st_size <= 4096
        return self.process.returncode, report, log

    def run(self) -> tuple[int, RunReport, str]:
        """Start it and wait for it."""
        return self.start().end()

    def stop(self) -> None:
        """What Kubernetes sends first."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """What a dying node does."""
        assert self.process is not None
        self.process.kill()
        self.process.communicate(timeout=10)


def events(log: str) -> list[dict[str, Any]]:
    """The log's lines, each one JSON object."""
    return [json.loads(line) for line in log.splitlines()]

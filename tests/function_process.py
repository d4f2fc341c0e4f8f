"""A function run as the real process it is, on a port of its own, told by environment variables alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from support import poll


@dataclass(frozen=True, slots=True)
class FunctionProcess:
    """A running function. ``http`` asks it, ``log`` holds what it wrote to standard error."""

    process: subprocess.Popen[bytes]
    http: httpx.Client
    log: Path

    def stop(self, *, seconds: float = 20) -> int:
        """SIGTERM, and its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=seconds)

    def wait_ready(self, *, seconds: float = 20) -> None:
        """Until `/readyz` says 200."""
        poll(lambda: self._answers("/readyz", 200), seconds=seconds, what=f"readiness; log: {self.log}")

    def wait_alive(self, *, seconds: float = 20) -> None:
        """Until `/healthz` says 200."""
        poll(lambda: self._answers("/healthz", 200), seconds=seconds, what=f"life; log: {self.log}")

    def _answers(self, path: str, status: int) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.http.get(path).status_code == status
        except httpx.TransportError:
            return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def command(module: str) -> list[str]:
    return [sys.executable, "-P", "-m", module]


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without its own OUTHAUL_ variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OUTHAUL_")} | dict(settings)


@contextmanager
def running(module: str, folder: Path, settings: Mapping[str, str]) -> Iterator[FunctionProcess]:
    """The function from its start to its end; killed if it has not ended by then."""
    port = free_port()
    log = folder / f"{module}.{port}.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command(module),
            env=environment({"OUTHAUL_HTTP_PORT": str(port), **settings}),
            stderr=stderr,
            cwd=folder,
        )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http:
        try:
            yield FunctionProcess(process, http, log)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=10)

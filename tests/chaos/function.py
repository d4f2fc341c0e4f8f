"""A function as a process that is killed, frozen and started again, always on the same port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from function_process import environment
from outhaul_local.ports import free_port
from outhaul_local.processes import ProcessRef
from outhaul_local.tether import Tether
from support import poll

TESTS = Path(__file__).parents[1]


class Function:
    """``module`` run with ``settings``. Its log is kept over restarts."""

    def __init__(self, module: str, folder: Path, tether: Tether, settings: Mapping[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"{module}.{self.port}.log"
        self._module = module
        self._folder = folder
        self._tether = tether
        self._settings = dict(settings)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it is not ready yet."""
        # The path is for the stand-ins that the scenarios run in a function's place.
        settings = {"OUTHAUL_HTTP_PORT": str(self.port), "PYTHONPATH": str(TESTS), **self._settings}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", self._module],
                env=environment(settings),
                stderr=log,
                cwd=self._folder,
            )
        reference = ProcessRef.of(self._process.pid)
        if reference is not None:
            self._tether.hold(reference)

    def wait_ready(self, *, seconds: float = 60) -> None:
        """Until `/readyz` says 200; AssertionError with the end of its log when it never does."""
        try:
            poll(lambda: self.answers("/readyz") == 200, seconds=seconds, what="readiness")
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.log} ends: {self.log.read_text()[-1500:]}") from error

    def answers(self, path: str) -> int:
        """The status of a GET; 0 without an answer."""
        try:
            return httpx.get(f"{self.url}{path}", timeout=5, trust_env=False).status_code
        except httpx.HTTPError:
            return 0

    def kill(self) -> None:
        """SIGKILL."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)

    def freeze(self) -> None:
        """SIGSTOP: it stands still and its connections stay open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def stop(self, *, seconds: float = 30) -> int:
        """SIGTERM, and its exit code."""
        assert self._process is not None
        self._signal(signal.SIGTERM)
        return self._process.wait(seconds)

    def restart(self, *, kill: bool = True) -> None:
        """End it, with SIGKILL or in order, and start it; it is not ready yet."""
        if kill:
            self.kill()
        else:
            assert self.stop() == 0, self.log.read_text()[-2000:]
        self.start()

    def memory_bytes(self) -> int:
        """What it holds in memory now; 0 when it is not there."""
        try:
            return 0 if self._process is None else int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    @contextmanager
    def supervised(self) -> Iterator[list[int]]:
        """Start it again whenever it ends, as a supervisor would; yields the exit codes so far."""
        codes: list[int] = []
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.1):
                if self._process is not None and (code := self._process.poll()) is not None:
                    codes.append(code)
                    self.start()

        thread = threading.Thread(target=watch, name="supervisor", daemon=True)
        thread.start()
        try:
            yield codes
        finally:
            done.set()
            thread.join(5)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)

"""Servers tied to the life of the process that started them: a test run that is killed must leave none behind.

A small helper process waits for the end of its standard input, which comes when its parent ends for whatever reason,
SIGKILL included. Then it kills what it was told to hold and removes the folder.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from outhaul_local.processes import ProcessRef


class Tether:
    """Holds processes and a folder; both go when our process goes. Entered, it starts the helper."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._helper: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._helper = subprocess.Popen(
            [sys.executable, "-P", "-m", "outhaul_local.tether", str(self._folder)],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def hold(self, process: ProcessRef, *, epmd_port: int | None = None) -> None:
        """Also end this process, and the Erlang port mapper on ``epmd_port``."""
        if self._helper is not None and self._helper.stdin is not None:
            self._helper.stdin.write(f"{process.pid} {process.started!r} {epmd_port or 0}\n")
            self._helper.stdin.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._helper is not None and self._helper.stdin is not None:
            self._helper.stdin.close()
            self._helper.wait(timeout=30)


def kill_port_mapper(port: int) -> None:
    """End the epmd that listens on ``port``.

    epmd detaches itself from the node that starts it, so the port in its environment is all it is known by.
    """
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error):
            if process.info["name"] == "epmd" and process.environ().get("ERL_EPMD_PORT") == str(port):
                ProcessRef(process.pid, process.create_time()).signal(signal.SIGTERM)


def main() -> None:
    """Wait for the parent's end, then end what was held."""
    folder = Path(sys.argv[1])
    held = [line.split() for line in sys.stdin]
    for pid, started, epmd_port in held:
        ProcessRef(int(pid), float(started)).signal(signal.SIGKILL)
        if epmd_port != "0":
            kill_port_mapper(int(epmd_port))
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

"""Processes that outlive us: known by pid and start time, so that a reused pid is never signalled."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from outhaul_local.identity import Identity
from outhaul_local.waiting import TimedOut, wait_for

OURSELVES = Identity("ourselves")


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """A process, by pid and the moment it began (seconds since the epoch, as the kernel tells it)."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> ProcessRef | None:
        """The running process ``pid``, or None."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def alive(self) -> bool:
        """Whether this very process still runs. A zombie does not."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if the process is still this one."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


@dataclass(frozen=True, slots=True)
class Spawned:
    """A process just started: what to remember of it, and the handle its parent must reap it by."""

    ref: ProcessRef
    handle: subprocess.Popen[bytes]

    def exit_code(self) -> int | None:
        """The exit code once it has ended (negative: killed by that signal), else None."""
        return self.handle.poll()


def spawn(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str],
    log: Path,
    folder: Path,
    identity: Identity = OURSELVES,
) -> Spawned:
    """Start ``command`` in the background: its own session, no terminal, output appended to ``log``.

    It gets ``environment`` and nothing else. Raises ``OSError`` when it cannot be executed.
    """
    with log.open("ab") as output:
        handle = subprocess.Popen(
            [str(part) for part in command],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            # Its own session: Ctrl-C at our terminal must not reach it.
            start_new_session=True,
            **identity.spawn_as(),
        )
    ref = ProcessRef.of(handle.pid)
    return Spawned(ref or ProcessRef(handle.pid, 0.0), handle)


def stop(
    ref: ProcessRef,
    *,
    first: signal.Signals = signal.SIGTERM,
    grace_seconds: float,
    handle: Spawned | None = None,
) -> bool:
    """Stop a process by ``first``, after ``grace_seconds`` by SIGKILL. Whether it ended by itself in time.

    ``handle`` is given by the process's parent, so that no zombie stays.
    """

    def ended() -> bool:
        # Our child has ended once it is reaped, not before: while its other threads are still ending, the process
        # already looks like a zombie and cannot be reaped yet.
        return handle.exit_code() is not None if handle is not None else not ref.alive()

    ref.signal(first)
    try:
        wait_for(ended, seconds=grace_seconds, what=f"the end of process {ref.pid}")
    except TimedOut:
        ref.signal(signal.SIGKILL)
        wait_for(ended, seconds=5, what=f"the end of process {ref.pid} after SIGKILL")
        return False
    return True


def tail(log: Path, *, lines: int = 20) -> str:
    """The last lines of a log, for an error message; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 64 * 1024))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def rotate(log: Path, *, above_bytes: int = 20_000_000) -> None:
    """Set a grown log aside as ``<name>.1``. Only for a log that no process has open."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > above_bytes:
            log.replace(log.with_name(log.name + ".1"))

"""Functions that die or stand still at a named point, and the evidence that they did so there."""

from __future__ import annotations

import signal
from pathlib import Path

from chaos.function import Function
from outhaul.failpoints import SETTING
from support import poll


def arm(function: Function, trigger: str) -> None:
    """From its next start on, until :func:`disarm`."""
    function._settings[SETTING] = trigger


def disarm(function: Function) -> None:
    """From its next start on it lives."""
    function._settings.pop(SETTING, None)


def times_reached(function: Function, trigger: str) -> int:
    """How often its lives, all told, came to that trigger's point and its time, by its own log."""
    return function.log.read_text(encoding="utf-8").count(f'"failpoint reached: {trigger}"')


def wait_killed(function: Function, trigger: str, *, times: int = 1, seconds: float = 60) -> None:
    """Until this life of it has ended at that trigger, the ``times``-th to do so; AssertionError for any other end."""
    process = function._process
    assert process is not None
    poll(lambda: process.poll() is not None, seconds=seconds, what=f"the end of a process at {trigger}")
    assert process.returncode == -signal.SIGKILL, function.log.read_text(encoding="utf-8")[-2000:]
    assert times_reached(function, trigger) == times


def wait_stopped(function: Function, trigger: str, *, seconds: float = 60) -> None:
    """Until it stands still at that trigger."""
    process = function._process
    assert process is not None
    poll(lambda: state(process.pid) == "T", seconds=seconds, what=f"a process that stands still at {trigger}")
    assert times_reached(function, trigger) == 1


def state(pid: int) -> str:
    """Of a process, as the kernel has it (proc(5)): T is stopped by a signal."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    return stat.rpartition(")")[2].split()[0]

"""Order processes, real ones: when one is killed, another goes on with the next order."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from shop.orders import Order

# Takes orders in turn and sends one outcome for each. Runs in a process of its own, so it is a plain function.
Work = Callable[..., None]

# A fresh interpreter each: a fork would share the parent's sockets.
_processes = multiprocessing.get_context("spawn")


class Counted:
    """A number that processes count up together."""

    def __init__(self) -> None:
        self._value = _processes.Value("i", 0)

    def add(self) -> None:
        """One more."""
        with self._value.get_lock():
            self._value.value += 1

    @property
    def value(self) -> int:
        """The number now."""
        return int(self._value.value)


def start(target: Work, *arguments: Any) -> SpawnProcess:
    """A process that runs that function; it ends with this one at the latest."""
    process = _processes.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def kill_this_process() -> None:
    """As the kernel does when memory runs out: no clean-up, no chance to say goodbye."""
    os.kill(os.getpid(), signal.SIGKILL)


def run(work: Work, orders: Sequence[Order], *arguments: Any, processes: int = 4) -> list[str]:
    """Share the orders out and return an outcome for each; each process runs ``work(orders, report, *arguments)``."""
    shares = [orders[n::processes] for n in range(processes)]
    with ThreadPoolExecutor(processes) as pool:
        return [outcome for share in pool.map(lambda s: _supervise(work, s, arguments), shares) for outcome in share]


def _supervise(work: Work, orders: Sequence[Order], arguments: Sequence[Any]) -> list[str]:
    outcomes: list[str] = []
    while True:
        receive, report = _processes.Pipe(duplex=False)
        process = start(work, orders[len(outcomes) :], report, *arguments)
        report.close()  # the child's copy is the only one left, so its death is an EOFError here
        outcomes += _outcomes(receive)
        process.join()
        if process.exitcode == 0:
            return outcomes
        if process.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"an order process ended with exit code {process.exitcode}")
        outcomes.append("left without an answer: the process was killed")  # the next process takes the rest, if any


def _outcomes(receive: Connection) -> list[str]:
    received: list[str] = []
    while True:
        try:
            received.append(receive.recv())
        except EOFError:
            return received

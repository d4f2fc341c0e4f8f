"""`make demo`: a stream of orders, and at its end an account of every single one."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from outhaul.errors import ConfigurationError
from outhaul_local.demo_client import OrderConnection, Result, Verdict
from outhaul_local.demo_kills import Killer
from outhaul_local.demo_ledger import Ledger, read_ledger
from outhaul_local.demo_orders import Job, Skipped, from_lines, made_up, opened
from outhaul_local.demo_report import Outcome, print_report
from outhaul_local.failure import LocalFailure
from outhaul_local.home import Home
from outhaul_local.installation import Installation
from outhaul_local.metrics_scrape import DUPLICATES, read_counter
from outhaul_local.processes import ProcessRef

CONNECTIONS = 32
# An order function that is killed is back within a second or two; a minute means that something is wrong.
GIVE_UP_SECONDS = 60.0
# The waybills' wait ends when their number has stood still for so long. A lease is 30 s, and then it goes on.
STANDSTILL_SECONDS = 90.0
DEFAULT_NUMBER = 10_000
MOST_ORDERS = 10_000_000
HIGHEST_RATE = 100_000
# A confirm is written down in batches, shortly after the consumer has the message.
MARKING_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What to send. ``number`` None: 10,000 made-up orders, or all of the file. ``rate`` is orders per second."""

    number: int | None
    rate: float | None
    file: str | None
    kill: bool
    seed: int

    @classmethod
    def checked(
        cls, *, number: str | None, rate: str | None, file: str | None, kill: bool, seed: int | None
    ) -> DemoOptions:
        """From text as a person gives it. Raises ConfigurationError naming the make variable."""
        orders = None
        if number is not None:
            if not (number.isascii() and number.isdigit() and len(number) <= 9 and 1 <= int(number) <= MOST_ORDERS):
                raise ConfigurationError("N", number, f"write a number of orders from 1 to {MOST_ORDERS}")
            orders = int(number)
        per_second = None
        if rate is not None:
            try:
                per_second = float(rate)
            except ValueError:
                per_second = 0.0
            if not 0 < per_second <= HIGHEST_RATE:
                raise ConfigurationError("RATE", rate, f"write orders per second, above 0 and at most {HIGHEST_RATE}")
        return cls(orders, per_second, file, kill, secrets.randbits(32) if seed is None else seed)


@dataclass(slots=True)
class _Sending:
    accepted: int = 0
    refused: int = 0
    unknown: int = 0
    replayed: int = 0
    retries: int = 0
    details: list[str] = field(default_factory=list)

    def add(self, job: Job, result: Result, skipped: Skipped) -> None:
        self.retries += result.tries - 1
        if result.verdict is Verdict.ACCEPTED:
            self.accepted += 1
            self.replayed += result.replayed
        elif result.verdict is Verdict.REFUSED:
            self.refused += 1
            skipped.add(job.label, result.detail)
        else:
            self.unknown += 1
            skipped.tell(f"{job.label}: no answer within {GIVE_UP_SECONDS:g} s ({result.detail})")


def demo(home: Home, console: Console, options: DemoOptions) -> bool:
    """Send and account. Whether nothing was lost. Raises LocalFailure when nothing runs."""
    installation = Installation.open(home) if home.state_file.exists() else None
    if installation is None or not installation.state.up:
        raise LocalFailure("nothing runs here", remedy="`make up` first")
    if not _lives(installation.state.supervisor):
        # After a reboot, say; and without it nothing that is killed would be started again.
        raise LocalFailure("the supervisor is not running", remedy="`make up` starts whatever is not running")
    return _Demo(installation, console, options).run()


def _lives(process: ProcessRef | None) -> bool:
    return process is not None and process.alive()


class _Demo:
    def __init__(self, installation: Installation, console: Console, options: DemoOptions) -> None:
        self._installation = installation
        self._console = console
        self._options = options
        self._run = f"demo-{secrets.token_hex(4)}"
        self._order_url = installation.database_url("order")
        self._waybill_url = installation.database_url("waybill")
        self._skipped = Skipped(lambda text: console.print(text, markup=False))
        self._sending = _Sending()
        self._killer = Killer(installation.home, random.Random(options.seed))  # noqa: S311 - chaos, not secrets

    def run(self) -> bool:
        port = self._installation.state.functions["waybill"].port
        duplicates_before = read_counter(port, DUPLICATES)
        began = time.monotonic()
        if self._options.file is None:
            sent_seconds = self._send(
                made_up(self._run, self._options.number or DEFAULT_NUMBER, seed=self._options.seed),
                self._options.number or DEFAULT_NUMBER,
            )
        else:
            with opened(self._options.file) as lines:
                jobs = from_lines(self._run, lines, self._skipped, at_most=self._options.number)
                sent_seconds = self._send(jobs, self._options.number)
        ledger = self._drain()
        drained_seconds = time.monotonic() - began
        duplicates_after = read_counter(self._installation.state.functions["waybill"].port, DUPLICATES)
        # A consumer that was killed counts from 0 again.
        before = 0.0 if self._killer.kills["waybill"] else duplicates_before
        already = duplicates_before if self._killer.kills["waybill"] else 0.0
        outcome = Outcome(
            run=self._run,
            accepted=self._sending.accepted,
            refused=self._sending.refused,
            skipped=self._skipped.count - self._sending.refused,
            unknown=self._sending.unknown,
            retries=self._sending.retries,
            replayed=self._sending.replayed,
            duplicates=max(0, round(duplicates_after - before + self._killer.duplicates - already)),
            kills=dict(self._killer.kills),
            send_seconds=sent_seconds,
            total_seconds=drained_seconds,
        )
        return print_report(self._console, outcome, ledger)

    def _send(self, jobs: Iterator[Job], total: int | None) -> float:
        began = time.monotonic()
        with self._bar() as bar:
            asyncio.run(self._send_all(jobs, bar, bar.add_task("orders accepted", total=total)))
        return time.monotonic() - began

    async def _send_all(self, jobs: Iterator[Job], bar: Progress, task: TaskID) -> None:
        killing = asyncio.create_task(self._killer.run()) if self._options.kill else None
        address = urlsplit(self._installation.order_url())
        paced = _Pace(jobs, self._options.rate)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(CONNECTIONS):
                    link = OrderConnection(address.hostname or "", address.port or 80, give_up_seconds=GIVE_UP_SECONDS)
                    group.create_task(self._work(link, paced, bar, task))
        finally:
            if killing is not None:
                killing.cancel()
                with suppress(asyncio.CancelledError):
                    await killing

    async def _work(self, link: OrderConnection, paced: _Pace, bar: Progress, task: TaskID) -> None:
        try:
            async for job in paced:
                result = await link.place(job)
                self._sending.add(job, result, self._skipped)
                if result.verdict is Verdict.ACCEPTED:
                    bar.advance(task)
        finally:
            link.close()

    def _drain(self) -> Ledger:
        """Wait until every order has a waybill, or their number stands still."""
        with self._bar() as bar:
            # A killed sender's last rows are held until its lease ends, and then they are sent by another.
            task = bar.add_task("waybills (leases may have to end)" if self._killer.kills["order"] else "waybills")
            ledger = self._ledger()
            moved_at = time.monotonic()
            pause = 0.1
            while not self._settled(ledger, time.monotonic() - moved_at):
                bar.update(task, total=ledger.committed, completed=ledger.waybills)
                time.sleep(pause)
                before, looked_at = ledger.waybills, time.monotonic()
                ledger = self._ledger()
                # Looking must stay cheap beside the work that is looked at.
                pause = min(2.0, max(0.1, 4 * (time.monotonic() - looked_at)))
                if ledger.waybills > before:
                    moved_at = time.monotonic()
            bar.update(task, total=ledger.committed, completed=ledger.waybills)
        return ledger

    def _settled(self, ledger: Ledger, still_seconds: float) -> bool:
        """Whether there is nothing left to wait for; ``still_seconds``: since when no waybill came."""
        if ledger.committed > ledger.waybills + ledger.parked:
            return still_seconds > STANDSTILL_SECONDS
        return ledger.sent + ledger.parked >= ledger.committed or still_seconds > MARKING_SECONDS

    def _ledger(self) -> Ledger:
        try:
            return read_ledger(self._order_url, self._waybill_url, self._run)
        except psycopg.Error as error:
            raise LocalFailure(
                f"the run cannot be accounted for: {error}", remedy="`make up`, then look again"
            ) from error

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description:16}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            refresh_per_second=4,
        )


class _Pace:
    """Hands jobs out to many workers, ``rate`` a second from the first one on."""

    def __init__(self, jobs: Iterator[Job], rate: float | None) -> None:
        self._jobs = jobs
        self._rate = rate
        self._began = 0.0
        self._given = 0

    def __aiter__(self) -> AsyncIterator[Job]:
        return self

    async def __anext__(self) -> Job:
        loop = asyncio.get_running_loop()
        if self._given == 0:
            self._began = loop.time()
        job = next(self._jobs, None)
        if job is None:
            raise StopAsyncIteration
        due = self._began + self._given / self._rate if self._rate else 0.0
        self._given += 1
        wait = due - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        return job

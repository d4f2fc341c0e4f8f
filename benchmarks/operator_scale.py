"""What it costs the operator to look after 500 Outboxes, 50 of them at hosts that never answer.

It runs as the process it is, on the cluster of ``KUBECONFIG`` (in a namespace of its own, deleted afterwards) and on a
PostgreSQL and a RabbitMQ of this run. Every Outbox reaches its database through a port of its own, where each look
leaves its time. The baseline, in the same run, is kopf alone with the same watch and handlers that do nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import httpx2
import psutil
from lightkube import Client, KubeConfig
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Namespace, Secret
from parts import Figure, Servers, machine_facts, report, servers

from outhaul_local import ports

OUTBOXES: Final = 500
DEAD: Final = 50
DATABASES: Final = 10
INTERVAL_SECONDS: Final = 30
SETTLE_SECONDS: Final = 60.0
MEASURE_SECONDS: Final = 180.0
COMMAND: Final = [sys.executable, "-P", "-m", "outhaul_operator"]
BASELINE: Final = [sys.executable, "-P", str(Path(__file__).with_name("operator_idle.py"))]
_TICK_SECONDS: Final = 0.01
_BURST_SECONDS: Final = 2.0  # what one look says to its database comes within this time
_OUTBOX: Any = create_namespaced_resource("outhaul.dev", "v1alpha1", "Outbox", "outboxes")


@dataclass(slots=True)
class Doors:
    """A port for each Outbox: to the database behind it, or to nobody. ``looks`` are the times somebody came."""

    targets: list[tuple[str, int] | None]
    looks: list[list[float]] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Listen, on a thread of its own."""
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(30)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)

    async def _close(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _listen(self) -> None:
        for index in range(len(self.targets)):
            self.looks.append([])

            async def come(reader: Any, writer: Any, index: int = index) -> None:
                with suppress(OSError, asyncio.IncompleteReadError):
                    await self._pass_on(index, reader, writer)

            server = await asyncio.start_server(come, "127.0.0.1", 0)
            self.ports.append(server.sockets[0].getsockname()[1])

    async def _pass_on(self, index: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self.targets[index]
        if target is None:
            self._note(index)
            await reader.read(-1)
            writer.close()
            return
        there_reader, there_writer = await asyncio.open_connection(*target)

        async def back() -> None:
            while chunk := await there_reader.read(65536):
                writer.write(chunk)
            writer.close()

        answering = asyncio.create_task(back())
        try:
            while chunk := await reader.read(65536):
                self._note(index)
                there_writer.write(chunk)
        finally:
            there_writer.close()
            answering.cancel()

    def _note(self, index: int) -> None:
        now = time.monotonic()
        if not self.looks[index] or now - self.looks[index][-1] > _BURST_SECONDS:
            self.looks[index].append(now)

    def longest_gap_seconds(self, index: int, since: float, until: float) -> float:
        """The longest time in the span that passed without a look at one Outbox."""
        times = [since, *(at for at in self.looks[index] if since <= at <= until), until]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a process over a span: the share of one core, and resident megabytes at most."""

    core: float
    megabytes: float
    since: float
    until: float


def measure(command: list[str], namespace: str, folder: Path, *, settle: float, seconds: float) -> Cost:
    """Start it, let it settle, and watch it from outside."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OUTHAUL_")},
        "OUTHAUL_OPERATOR_NAMESPACES": namespace,
        "OUTHAUL_HTTP_PORT": str(ports.free_port()),
    }
    log = folder / f"{Path(command[-1]).name}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=stream, stderr=stream)
    try:
        time.sleep(settle)
        watched = psutil.Process(process.pid)
        since, before = time.monotonic(), watched.cpu_times()
        most = 0
        while time.monotonic() < since + seconds:
            if process.poll() is not None:
                raise SystemExit(f"{command} ended:\n{log.read_text()[-3000:]}")
            most = max(most, watched.memory_info().rss)
            time.sleep(1)
        until, after = time.monotonic(), watched.cpu_times()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    # The kernel counts in hundredths of a second: a process that used less is not known to have used none.
    used = max(_TICK_SECONDS, after.user + after.system - before.user - before.system)
    return Cost(used / (until - since), most / 1e6, since, until)


def encoded(text: str) -> str:
    """As a Secret holds it."""
    return base64.b64encode(text.encode()).decode()


@contextmanager
def outboxes(parts: Servers, doors: Doors, urls: list[str]) -> Iterator[str]:
    """The namespace with all the Outboxes in it, each with a Secret of its own."""
    client: Any = Client(KubeConfig.from_env().get(), timeout=httpx2.Timeout(60), trust_env=False)
    namespace = f"kube-bench-{secrets.token_hex(3)}"
    client.create(Namespace(metadata=ObjectMeta(name=namespace)))

    def make(index: int) -> None:
        name = f"shop-{index:03d}"
        split = urlsplit(urls[index % len(urls)])
        login = split.netloc.rpartition("@")[0]
        url = urlunsplit(split._replace(netloc=f"{login}@127.0.0.1:{doors.ports[index]}", query="sslmode=disable"))
        entries = {"database": url, "url": parts.amqp_url, "management-url": parts.management_url}
        client.create(
            Secret(
                metadata=ObjectMeta(name=name, namespace=namespace, labels={"outhaul.dev/allow": "true"}),
                data={key: encoded(value) for key, value in entries.items()},
            )
        )
        spec = {
            "databaseSecretRef": {"name": name, "key": "database"},
            "brokerSecretRef": {"name": name},
            "interval": f"{INTERVAL_SECONDS}s",
        }
        client.create(_OUTBOX(metadata=ObjectMeta(name=name, namespace=namespace), spec=spec))

    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(make, range(len(doors.targets))))
        yield namespace
    finally:
        client.delete(Namespace, namespace)


def run(parts: Servers, *, quick: bool) -> list[Figure]:
    """The operator, beside kopf alone. Quick: a tenth of the Outboxes, for a shorter time."""
    number, dead = (OUTBOXES // 10, DEAD // 10) if quick else (OUTBOXES, DEAD)
    settle, seconds = (20.0, 60.0) if quick else (SETTLE_SECONDS, MEASURE_SECONDS)
    urls = [parts.database("outbox") for _ in range(1 if quick else DATABASES)]
    there = urlsplit(parts.postgres_url)
    at = (there.hostname or "127.0.0.1", there.port or 5432)
    doors = Doors([None if index < dead else at for index in range(number)])
    with tempfile.TemporaryDirectory() as folder, doors.open(), outboxes(parts, doors, urls) as namespace:
        idle = measure(BASELINE, namespace, Path(folder), settle=settle / 3, seconds=seconds / 3)
        cost = measure(COMMAND, namespace, Path(folder), settle=settle, seconds=seconds)
    gaps = sorted(doors.longest_gap_seconds(index, cost.since, cost.until) for index in range(number))
    late = sum(gap > 2 * INTERVAL_SECONDS for gap in gaps)
    what = f"{number} Outboxes, {dead} of them dead"
    return [
        Figure(f"operator, {what}: CPU", "milli-core", [cost.core * 1000], [idle.core * 1000], "< 100"),
        Figure(f"operator, {what}: memory", "MB", [cost.megabytes], [idle.megabytes], "< 150"),
        Figure(
            "operator: longest time without a look",
            "s",
            [gaps[-1]],
            goal=f"< {2 * INTERVAL_SECONDS}, twice the interval",
            note=f"{late} of {number} longer than that; half of them at most {gaps[len(gaps) // 2]:.1f} s",
        ),
    ]


def main() -> None:
    """By itself, since unlike the others it needs a cluster."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the Outboxes: a look, not a figure to quote")
    options = parser.parse_args()
    if not os.environ.get("KUBECONFIG"):
        raise SystemExit("name a cluster for tests in KUBECONFIG")
    # Each Outbox has a server of its own, as far as the operator can tell; in truth they are one.
    with servers(max_connections=OUTBOXES + 100) as parts:
        report(run(parts, quick=options.quick), machine_facts(parts))


if __name__ == "__main__":
    main()

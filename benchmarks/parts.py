"""What the benchmarks run against, and how a figure is reported: always beside its baseline, from the same run."""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg
from psycopg import sql

from outhaul import __version__
from outhaul.database import schema_apply
from outhaul.settings import BrokerSettings, DatabaseSettings
from outhaul_local import ports
from outhaul_local.identity import server_identity
from outhaul_local.postgres import PostgresServer
from outhaul_local.rabbitmq import BrokerPorts, RabbitServer, broker_version, find_binary
from outhaul_local.tether import Tether

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Servers:
    """A PostgreSQL and a RabbitMQ of this run's own."""

    postgres_url: str
    amqp_url: str
    management_url: str
    postgres_pid: int
    rabbit_pid: int

    def database(self, *components: str) -> str:
        """A new database with the schema of these components; returns its URL."""
        name = f"bench_{secrets.token_hex(4)}"
        with psycopg.connect(self.postgres_url, autocommit=True) as conn:
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        url = urlunsplit(urlsplit(self.postgres_url)._replace(path=f"/{name}"))
        with psycopg.connect(url, autocommit=True) as conn:
            for component in components:
                schema_apply.apply(conn, component)
        return url


@contextmanager
def servers(*, max_connections: int = 300) -> Iterator[Servers]:
    """Start both, on free ports with data of their own; stop and remove them afterwards."""
    identity = server_identity()
    folder = Path(tempfile.mkdtemp(prefix="outhaul-bench-", dir="/var/tmp"))
    identity.own(folder)
    binary = find_binary(os.environ.get("OUTHAUL_RABBITMQ_SERVER"))
    if binary is None:
        raise SystemExit("benchmarks need rabbitmq-server on PATH; `make doctor` says how to install it")
    postgres = PostgresServer(
        folder=folder / "postgres",
        log=folder / "postgres.log",
        port=ports.free_port(),
        password=secrets.token_hex(16),
        max_connections=max_connections,
    )
    rabbit = RabbitServer(
        binary=binary,
        folder=folder / "rabbitmq",
        log=folder / "rabbitmq.log",
        node=f"outhaul-bench-{secrets.token_hex(4)}",
        password=secrets.token_hex(16),
        ports=BrokerPorts.choose(),
    )
    try:
        with Tether(folder) as tether:
            postgres.initialise()
            postgres.start()
            rabbit.start()
            assert postgres.process is not None
            assert rabbit.process is not None
            tether.hold(postgres.process)
            tether.hold(rabbit.process, epmd_port=rabbit.ports.epmd)
            yield Servers(
                postgres.url(), rabbit.amqp_url(), rabbit.management_url(), postgres.process.pid, rabbit.process.pid
            )
            rabbit.stop(keep_data=False)
            postgres.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(slots=True)
class Figure:
    """One measured quantity beside its baseline, in the same unit, several rounds of each, taken in turn."""

    name: str
    unit: str
    measured: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)
    goal: str = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Median measured over median baseline; None without a baseline."""
        if not self.baseline:
            return None
        return statistics.median(self.measured) / statistics.median(self.baseline)


def machine_facts(parts: Servers) -> dict[str, str | int]:
    """What a reader needs to compare: cores, memory, versions."""
    with psycopg.connect(parts.postgres_url) as conn:
        row = conn.execute("SHOW server_version").fetchone()
    return {
        "outhaul": __version__,
        "python": platform.python_version(),
        "postgresql": row[0] if row else "",
        "rabbitmq": ".".join(map(str, broker_version(parts.management_url))),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def report(figures: list[Figure], facts: dict[str, str | int]) -> Path:
    """Print the table and write the JSON; returns the JSON's path."""
    print()
    print("  ".join(f"{key} {value}" for key, value in facts.items()))
    print()
    print(f"{'figure':46} {'measured':>12} {'baseline':>12} {'ratio':>7}  goal")
    for figure in figures:
        measured = statistics.median(figure.measured)
        baseline = f"{statistics.median(figure.baseline):12,.1f}" if figure.baseline else " " * 12
        ratio = f"{figure.ratio:7.2f}" if figure.ratio is not None else " " * 7
        print(f"{figure.name + ' (' + figure.unit + ')':46} {measured:12,.1f} {baseline} {ratio}  {figure.goal}")
        if figure.note:
            print(f"    {figure.note}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(
        json.dumps({"machine": facts, "figures": [{**asdict(f), "ratio": f.ratio} for f in figures]}, indent=1)
    )
    print(f"\n{path}")
    return path


def broker(parts: Servers) -> BrokerSettings:
    """The broker's settings."""
    return BrokerSettings.parse(parts.amqp_url)


def database(url: str) -> DatabaseSettings:
    """The database's settings."""
    return DatabaseSettings.parse(url)

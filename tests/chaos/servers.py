"""What faults are made on: a PostgreSQL for each function and a RabbitMQ, none of them anybody else's."""

from __future__ import annotations

import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
import psycopg

from outhaul.database import schema_apply
from outhaul_local import ports
from outhaul_local.postgres import PostgresServer
from outhaul_local.rabbitmq import BrokerPorts, RabbitServer, broker_version
from outhaul_local.tether import Tether
from support import BrokerUnderTest

CTL_SECONDS = 240  # it starts an Erlang of its own, on a machine that may be busy
EVERYTHING = {"configure": ".*", "write": ".*", "read": ".*"}


@dataclass(slots=True)
class Servers:
    """Two databases' servers and the broker, started once and used by every scenario in turn."""

    order: PostgresServer
    waybill: PostgresServer
    broker: RabbitServer
    tether: Tether

    def hold(self) -> None:
        """Tie what runs now to this process's life; to be repeated after a restart."""
        for server in (self.order, self.waybill):
            if server.process is not None:
                self.tether.hold(server.process)
        if self.broker.process is not None:
            self.tether.hold(self.broker.process, epmd_port=self.broker.ports.epmd)

    def rabbitmqctl(self, *arguments: str) -> str:
        """What `rabbitmqctl` says when it has done this on the broker. Raises CalledProcessError."""
        return rabbitmqctl(self.broker, *arguments)

    def mend(self) -> None:
        """Start what a scenario that failed has left dead. Raises LocalFailure."""
        for server in (self.order, self.waybill, self.broker):
            if not server.alive():
                server.start()
        self.hold()

    @contextmanager
    def databases(self) -> Iterator[tuple[str, str]]:
        """A new database for each function, its schema applied, dropped in the end: (order, waybill)."""
        made = self._databases()
        yield made
        for server, dsn in zip((self.order, self.waybill), made, strict=True):
            with psycopg.connect(server.url(), autocommit=True) as conn:
                conn.execute(f"DROP DATABASE {dsn.rpartition('/')[2]} WITH (FORCE)".encode())

    def _databases(self) -> tuple[str, str]:
        return new_database(self.order, "order"), new_database(self.waybill, "waybill")

    @contextmanager
    def virtual_host(self) -> Iterator[BrokerUnderTest]:
        """A virtual host, deleted in the end."""
        name = f"chaos-{secrets.token_hex(4)}"
        with httpx.Client(base_url=self.broker.management_url(), timeout=30, trust_env=False) as api:
            make_virtual_host(api, name, self.broker.user)
            yield BrokerUnderTest(
                amqp_url=self.broker.amqp_url(name),
                management_url=self.broker.management_url(),
                vhost=name,
                version=broker_version(self.broker.management_url()),
            )
            api.delete(f"/api/vhosts/{name}").raise_for_status()


def rabbitmqctl(node: RabbitServer, *arguments: str) -> str:
    """The same for any node."""
    program = node.binary.with_name("rabbitmqctl")
    done = subprocess.run(
        [str(program), "-n", f"{node.node}@localhost", *arguments],
        env=node._environment(),
        check=True,
        capture_output=True,
        text=True,
        timeout=CTL_SECONDS,
        cwd=node.folder,
        **node.identity.spawn_as(),
    )
    return done.stdout


def make_virtual_host(api: httpx.Client, name: str, user: str) -> None:
    """A virtual host that ``user`` may do everything in."""
    api.put(f"/api/vhosts/{name}", json={"default_queue_type": "classic"}).raise_for_status()
    api.put(f"/api/permissions/{name}/{quote(user, safe='')}", json=EVERYTHING).raise_for_status()


def kill(server: PostgresServer | RabbitServer) -> None:
    """SIGKILL, and wait for its end: a handle dropped before that is a warning."""
    assert server._spawned is not None
    server._spawned.ref.signal(signal.SIGKILL)
    server._spawned.handle.wait(10)


def start_postgres(folder: Path, name: str) -> PostgresServer:
    """A PostgreSQL of its own. Raises LocalFailure."""
    server = PostgresServer(
        folder=folder / name,
        log=folder / f"{name}.log",
        port=ports.free_port(),
        password=secrets.token_hex(16),
        max_connections=60,
    )
    server.initialise()
    server.start()
    return server


def rabbit_server(binary: Path, folder: Path) -> RabbitServer:
    """A RabbitMQ of its own, not yet started."""
    return RabbitServer(
        binary=binary,
        folder=folder / "chaos-rabbitmq",
        log=folder / "chaos-rabbitmq.log",
        node=f"outhaul-chaos-{secrets.token_hex(4)}",
        password=secrets.token_hex(16),
        ports=BrokerPorts.choose(),
        statistics_interval_ms=500,
    )


def new_database(server: PostgresServer, component: str, *, tablespace: str = "pg_default") -> str:
    """The DSN of a new database with that component's schema."""
    name = f"{component}_{secrets.token_hex(4)}"
    with psycopg.connect(server.url(), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TABLESPACE {tablespace}".encode())
    dsn = server.url(name)
    with psycopg.connect(dsn, autocommit=True) as conn:
        schema_apply.apply(conn, component)
    return dsn

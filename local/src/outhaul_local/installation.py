"""One local installation: its parts made from what is remembered, and remembered again as they change."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from outhaul_local import databases, ports
from outhaul_local.docker_broker import DockerBroker
from outhaul_local.exported import ALERTS, AMQP, MANAGEMENT, database_setting, remember_issued
from outhaul_local.failure import LocalFailure
from outhaul_local.function_process import FunctionProcess
from outhaul_local.home import Home, write_private
from outhaul_local.identity import Identity, server_identity
from outhaul_local.postgres import PostgresServer
from outhaul_local.processes import ProcessRef
from outhaul_local.rabbitmq import BrokerPorts, RabbitServer
from outhaul_local.state import FUNCTIONS, ORDER, State, load, save

DEFAULT_HTTP_PORTS = {"order": 8080, "waybill": 8081}
# A killed sender's rows wait for their lease's end. On one machine confirms take milliseconds, so a third of the usual
# times is plenty, and a person need not wait a minute to see them sent.
LOCAL_SENDER = {"OUTHAUL_SENDER_LEASE": "20s", "OUTHAUL_SENDER_CONFIRM_TIMEOUT": "10s"}
Broker = RabbitServer | DockerBroker


class Service(Protocol):
    """Something local mode keeps running."""

    @property
    def title(self) -> str:
        """How people call it."""

    @property
    def log(self) -> Path:
        """Where it says what it does."""

    @property
    def process(self) -> ProcessRef | None:
        """Its process, if it has one of ours."""

    def alive(self) -> bool:
        """Whether it runs."""

    def launch(self) -> None:
        """Start it; it is not ready yet."""

    def await_ready(self) -> None:
        """Wait until it can be used; stop it if it cannot."""

    def stop(self) -> None:
        """Stop it; its data stays."""


@dataclass(slots=True)
class Installation:
    """What lives in one :class:`Home`. Its parts are made once and keep the handle of what they started."""

    home: Home
    state: State
    identity: Identity
    _parts: dict[str, PostgresServer | Broker | FunctionProcess] = field(default_factory=dict)

    @classmethod
    def open(cls, home: Home) -> Installation:
        """Read what is remembered."""
        return cls(home, load(home), server_identity())

    def save(self) -> None:
        """Remember."""
        save(self.home, self.state)

    @property
    def servers_folder(self) -> Path:
        """Where the servers' data lies, chosen at the first use and kept."""
        if not self.state.servers_folder:
            self.state.servers_folder = str(self.home.servers_folder(self.identity))
        return Path(self.state.servers_folder)

    def postgres(self) -> PostgresServer | None:
        """The own PostgreSQL; None when both databases are somebody else's."""
        if len(self.state.external.databases) == len(FUNCTIONS):
            return None
        part = self._parts.get("postgres")
        if not isinstance(part, PostgresServer):
            remembered = self.state.postgres
            part = PostgresServer(
                folder=self.servers_folder / "postgres",
                log=self.home.log("postgres"),
                port=remembered.port,
                password=remembered.password,
                identity=self.identity,
                process=remembered.process,
            )
            self._parts["postgres"] = part
        return part

    def broker(self) -> Broker | None:
        """The own RabbitMQ; None when it is somebody else's or not chosen yet."""
        remembered = self.state.broker
        if self.state.external.amqp_url or not remembered.kind or remembered.ports is None:
            return None
        part = self._parts.get("broker")
        if isinstance(part, RabbitServer | DockerBroker):
            return part
        if remembered.kind == "docker":
            part = DockerBroker(
                name=f"outhaul-{self.home.digest}",
                log=self.home.log("rabbitmq"),
                password=remembered.password,
                ports=remembered.ports,
            )
        else:
            part = RabbitServer(
                binary=Path(remembered.binary),
                folder=self.servers_folder / "rabbitmq",
                log=self.home.log("rabbitmq"),
                node=f"outhaul-{self.home.digest}",
                password=remembered.password,
                ports=remembered.ports,
                identity=self.identity,
                statistics_interval_ms=1000,
                process=remembered.process,
            )
        self._parts["broker"] = part
        return part

    def function(self, name: str) -> FunctionProcess:
        """One function. Its settings are those of now, so it is made anew when they changed."""
        remembered = self.state.functions[name]
        part = self._parts.get(name)
        settings = self.function_settings(name)
        if not isinstance(part, FunctionProcess) or part.settings != settings or part.port != remembered.port:
            part = FunctionProcess(
                name=name,
                port=remembered.port,
                log=self.home.log(name),
                settings=settings,
                process=remembered.process,
            )
            self._parts[name] = part
        return part

    def services(self) -> list[Service]:
        """All that is ours to keep running, in the order in which it starts. No function before there is a broker."""
        servers: list[Service | None] = [self.postgres(), self.broker()]
        names = FUNCTIONS if self.state.external.amqp_url or self.broker() is not None else ()
        return [*(part for part in servers if part is not None), *(self.function(name) for name in names)]

    def record(self, service: Service) -> None:
        """Remember a service's process as it is now."""
        if isinstance(service, PostgresServer):
            self.state.postgres.process = service.process
        elif isinstance(service, RabbitServer | DockerBroker):
            self.state.broker.process = service.process
        elif isinstance(service, FunctionProcess):
            self.state.functions[service.name].process = service.process
        self.save()

    def choose_postgres_port(self) -> None:
        """Keep the port unless somebody else took it."""
        self.state.postgres.port = ports.free_port(self.state.postgres.port or None)
        self._parts.pop("postgres", None)

    def choose_broker_ports(self) -> None:
        """Keep the ports unless somebody else took one."""
        remembered = self.state.broker
        if remembered.ports is None or not remembered.ports.all_free():
            remembered.ports = BrokerPorts.choose()
        self._parts.pop("broker", None)

    def choose_function_port(self, name: str) -> None:
        """The default port, else the last one, else any."""
        remembered = self.state.functions[name]
        wanted = DEFAULT_HTTP_PORTS[name]
        remembered.port = wanted if ports.is_free(wanted) else ports.free_port(remembered.port or None)

    def amqp_url(self, user: str = "") -> str:
        """AMQP URL of the administrator, or of a function's own user. Somebody else's broker has one for all."""
        if self.state.external.amqp_url:
            return self.state.external.amqp_url
        broker = self.broker()
        if broker is None:
            raise LocalFailure("there is no broker yet", remedy="`make up`")
        if not user:
            return broker.amqp_url()
        password = self.state.broker.user_passwords[user]
        return f"amqp://outhaul-{user}:{password}@{ports.LOOPBACK}:{broker.ports.amqp}/%2F"

    def management_url(self) -> str:
        """The management API's base URL, with an administrator's credentials."""
        if self.state.external.management_url:
            return self.state.external.management_url
        broker = self.broker()
        if broker is None:
            raise LocalFailure("there is no broker yet", remedy="`make up`")
        return broker.management_url()

    def database_url(self, function: str, *, as_function: bool = False) -> str:
        """A function's database, for its owner or for the function's own role."""
        if function in self.state.external.databases:
            return self.state.external.databases[function]
        remembered = self.state.postgres
        user = databases.role(function) if as_function else databases.ADMIN
        password = remembered.role_passwords[function] if as_function else remembered.admin_password
        return f"postgresql://{user}:{password}@{ports.LOOPBACK}:{remembered.port}/{databases.role(function)}"

    def alert_webhook_url(self) -> str:
        """Where alerts go: what was exported, else the supervisor's own log of alerts."""
        return self.state.external.alert_webhook_url or f"http://{ports.LOOPBACK}:{self.state.alerts_port}/"

    def function_settings(self, name: str) -> dict[str, str]:
        """Exactly the settings that a function uses."""
        return {
            database_setting(name): self.database_url(name, as_function=True),
            AMQP: self.amqp_url(name),
            ALERTS: self.alert_webhook_url(),
            **(LOCAL_SENDER if name == ORDER else {}),
        }

    def settings_for_people(self) -> dict[str, str]:
        """The five settings of the `outhaul` command."""
        return {
            **{database_setting(name): self.database_url(name) for name in FUNCTIONS},
            AMQP: self.amqp_url(),
            MANAGEMENT: self.management_url(),
            ALERTS: self.alert_webhook_url(),
        }

    def write_env(self) -> None:
        """Write the file to source."""
        settings = self.settings_for_people()
        # Somebody else's server stays somebody else's when this file is sourced.
        external = self.state.external
        foreign = {external.amqp_url, external.management_url, external.alert_webhook_url, *external.databases.values()}
        remember_issued(self.home, set(settings.values()) - foreign)
        lines = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
        heading = "# Settings of the local installation; `source` this file to use the `outhaul` command on it."
        write_private(self.home.env_file, "\n".join([heading, *lines]) + "\n")

    def order_url(self) -> str:
        """Base URL of the order function."""
        return self.function(ORDER).url

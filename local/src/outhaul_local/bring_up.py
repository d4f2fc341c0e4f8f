"""Everything brought to run: what lives is left alone, what is missing is started, in the order it is needed."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass, field

from outhaul_local import databases, ports
from outhaul_local.broker_choice import choose_broker
from outhaul_local.broker_setup import apply_topology, make_users
from outhaul_local.docker_broker import DockerBroker
from outhaul_local.failure import LocalFailure
from outhaul_local.installation import DEFAULT_HTTP_PORTS, Broker, Installation, Service
from outhaul_local.interrupts import Interrupts
from outhaul_local.processes import OURSELVES, ProcessRef, rotate, spawn, stop, tail
from outhaul_local.progress import Step, Steps
from outhaul_local.rabbitmq import broker_version
from outhaul_local.state import FUNCTIONS, External
from outhaul_local.waiting import TimedOut, wait_for

SUPERVISOR_SECONDS = 15.0
RUNNING = "runs already"


@dataclass(slots=True)
class BringUp:
    """One `make up`. ``started`` are the services it started; they are stopped again if it does not end well."""

    installation: Installation
    steps: Steps
    interrupts: Interrupts
    started: list[Service] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _supervisor: ProcessRef | None = None

    def run(self, exported: External) -> None:
        """Do it. Raises :class:`LocalFailure`, or Interrupted; then nothing this run started is left."""
        state = self.installation.state
        self.installation.home.make()
        state.external = exported
        try:
            broker_step = self._begin_broker()
            self._bring_up_databases()
            self._finish_broker(broker_step)
            self._bring_up_functions()
            state.up = True
            self.installation.save()
            self._start_supervisor()
            self.installation.write_env()
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Stop what this run started. What ran before goes on."""
        with self.interrupts.held_back(for_good=True):
            if self._supervisor is not None:
                stop(self._supervisor, grace_seconds=10)
                self.installation.state.supervisor = None
            for service in reversed(self.started):
                service.stop()
                self.installation.record(service)
            self.installation.state.up = any(service.alive() for service in self.installation.services())
            self.installation.save()

    def _launch(self, service: Service) -> None:
        rotate(service.log)
        # A signal waits until the process is written down: what is not written down could not be stopped.
        with self.interrupts.held_back():
            self.started.append(service)
            service.launch()
            self.installation.record(service)

    def _lives(self, service: Service) -> bool:
        """Whether it runs and is ready. What runs and does not get ready is stopped, to be started anew."""
        if not service.alive():
            return False
        try:
            service.await_ready()
        except LocalFailure as failure:
            self.notes.append(f"{service.title} hung and is started anew ({failure})")
            return False
        return True

    # The broker takes longest, so it is launched first and waited for last.

    def _begin_broker(self) -> tuple[Step, Broker | None]:
        state = self.installation.state
        if state.external.amqp_url:
            step = self.steps.begin("RabbitMQ (OUTHAUL_AMQP_URL is exported)")
            return step, None
        step = self.steps.begin("RabbitMQ")
        broker = self.installation.broker()
        if broker is not None and broker.alive():
            return step, broker
        log = self.installation.home.log("rabbitmq")
        # apt hears of Ctrl-C itself and ends in order; killed in the middle it would leave dpkg half done.
        with self.interrupts.held_back():
            state.broker.kind, binary = choose_broker(self.installation.home.log("install"), step.note)
        state.broker.binary = str(binary or "")
        self.installation.choose_broker_ports()
        broker = self.installation.broker()
        if broker is None:
            raise LocalFailure("no broker could be chosen", log=log)
        step.note("in Docker, the image may have to be fetched" if binary is None else f"starting {binary}")
        self._launch(broker)
        return step, broker

    def _finish_broker(self, begun: tuple[Step, Broker | None]) -> None:
        step, broker = begun
        ours = broker is not None and broker in self.started
        if broker is not None and not self._lives(broker):
            self._launch(broker)
            broker.await_ready()
            ours = True
        management = self.installation.management_url()
        version = ".".join(str(part) for part in broker_version(management))
        where = "" if broker is not None else " of your own"
        kind = " in Docker" if isinstance(broker, DockerBroker) else ""
        step.done(f"{version}{kind}{where}" + ("" if ours or broker is None else f", {RUNNING}"))
        step = self.steps.begin("Topology")
        if broker is not None:
            make_users(management, self.installation.state.broker.user_passwords)
        apply_topology(self.installation.amqp_url(), management)
        step.done("exchanges, queues and policies")

    def _bring_up_databases(self) -> None:
        server = self.installation.postgres()
        if server is not None:
            step = self.steps.begin("PostgreSQL")
            running = self._lives(server)
            if not running:
                self.installation.choose_postgres_port()
                server = self.installation.postgres() or server
                server.folder.mkdir(exist_ok=True)
                self.installation.identity.own_folder(server.folder)
                if server.initialise():
                    step.note("starting on new data")
                self._launch(server)
                server.await_ready()
                self.installation.record(server)
            step.done(RUNNING if running else "ready")
        step = self.steps.begin("Schema")
        done = databases.provision(server, self.installation.state.postgres) if server is not None else []
        for function, url in self.installation.state.external.databases.items():
            done += databases.apply_schema(url, function)
            self.notes.append(f"the {function} function uses the database you exported")
        step.done(f"applied {', '.join(done)}" if done else "up to date")

    def _bring_up_functions(self) -> None:
        state = self.installation.state
        if not state.alerts_port or not (self._supervisor_lives() or ports.is_free(state.alerts_port)):
            state.alerts_port = ports.free_port()
        pending = []
        for name in FUNCTIONS:
            function = self.installation.function(name)
            digest = self._settings_digest(name)
            changed = state.functions[name].settings_digest != digest
            if function.alive() and changed:
                self.notes.append(f"the {name} function is restarted with changed settings")
                function.stop()
            step = self.steps.begin(f"{name.capitalize()} function")
            if self._lives(function):
                step.done(f"{RUNNING}, {function.url}")
                continue
            state.functions[name].settings_digest = digest
            self.installation.choose_function_port(name)
            self._launch(self.installation.function(name))
            pending.append((name, step))
        # Both were launched before either is waited for: they start side by side.
        for name, step in pending:
            self._await_function(name)
            port = state.functions[name].port
            step.done(self.installation.function(name).url)
            if port != DEFAULT_HTTP_PORTS[name]:
                self.notes.append(f"port {DEFAULT_HTTP_PORTS[name]} is taken, so the {name} function has {port}")

    def _await_function(self, name: str) -> None:
        function = self.installation.function(name)
        try:
            function.await_ready()
        except LocalFailure:
            if "address already in use" not in tail(function.log).lower():
                raise
            # Another program took the port after we had found it free.
            self.installation.choose_function_port(name)
            function = self.installation.function(name)
            self._launch(function)
            function.await_ready()

    def _settings_digest(self, name: str) -> str:
        settings = json.dumps(self.installation.function_settings(name), sort_keys=True)
        return hashlib.sha256(settings.encode()).hexdigest()[:16]

    def _supervisor_lives(self) -> bool:
        supervisor = self.installation.state.supervisor
        return supervisor is not None and supervisor.alive()

    def _start_supervisor(self) -> None:
        if self._supervisor_lives():
            return
        step = self.steps.begin("Supervisor")
        installation = self.installation
        home = installation.home
        log = home.log("supervisor")
        rotate(log)
        with self.interrupts.held_back():
            spawned = spawn(
                [sys.executable, "-P", "-m", "outhaul_local", "--home", home.folder, "supervise"],
                environment=supervisor_environment(),
                log=log,
                folder=home.folder,
                identity=OURSELVES,
            )
            self._supervisor = installation.state.supervisor = spawned.ref
            installation.save()
        try:
            wait_for(
                lambda: ports.is_listening(installation.state.alerts_port) or spawned.exit_code() is not None,
                seconds=SUPERVISOR_SECONDS,
                what="the supervisor's start",
            )
        except TimedOut as late:
            raise LocalFailure(str(late), log=log) from late
        if spawned.exit_code() is not None:
            raise LocalFailure("the supervisor ended while starting", log=log)
        step.done("restarts what dies")


def supervisor_environment() -> dict[str, str]:
    """What the supervisor needs of our environment; it starts the servers, which need a PATH."""
    kept = ("PATH", "HOME", "LANG", "SUDO_UID", "DOCKER_HOST", "DOCKER_CONTEXT")
    return {name: os.environ[name] for name in kept if name in os.environ}

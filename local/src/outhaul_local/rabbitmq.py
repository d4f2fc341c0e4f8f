"""An own RabbitMQ node: own name, cookie, data, plugins and ports, all on loopback, with a generated password.

Everything a node would share with another one on the machine is set apart: the Erlang port mapper (epmd) too,
since the usual one listens on all addresses and outlives its nodes.
"""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import httpx

from outhaul_local import ports
from outhaul_local.failure import LocalFailure
from outhaul_local.identity import Identity, server_identity
from outhaul_local.processes import ProcessRef, Spawned, spawn, stop, tail
from outhaul_local.tether import kill_port_mapper
from outhaul_local.waiting import TimedOut, wait_for

START_SECONDS = 90.0
STOP_SECONDS = 20.0
PLUGINS = ("rabbitmq_management", "rabbitmq_prometheus")

# Debian's and Homebrew's places, tried after PATH. Debian's /usr/sbin/rabbitmq-server is a wrapper that switches
# the user through su; the script behind it runs as whoever calls it.
USUAL_PLACES = (
    Path("/usr/lib/rabbitmq/bin/rabbitmq-server"),
    Path("/usr/local/sbin/rabbitmq-server"),
    Path("/opt/homebrew/sbin/rabbitmq-server"),
    Path("/opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server"),
    Path("/usr/local/opt/rabbitmq/sbin/rabbitmq-server"),
)
_WRAPPER = "rabbitmq-script-wrapper"
# Folders a login shell may lack, in which Erlang or RabbitMQ are found all the same.
_MORE_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/opt/homebrew/bin")


def find_binary(chosen: str | None = None) -> Path | None:
    """The `rabbitmq-server` script of this machine, or None. ``chosen`` (a setting) is taken as it is.

    Raises :class:`LocalFailure` when ``chosen`` cannot be executed.
    """
    if chosen:
        path = Path(chosen)
        if not os.access(path, os.X_OK):
            raise LocalFailure(
                f"OUTHAUL_RABBITMQ_SERVER={chosen!r} is not a program that can be executed",
                remedy="name the rabbitmq-server script, or unset it to have one looked for",
            )
        return path
    on_path = shutil.which("rabbitmq-server", path=_search_path())
    candidates = [Path(on_path).resolve()] if on_path else []
    for path in (*candidates, *USUAL_PLACES):
        if path.name != _WRAPPER and not _is_su_wrapper(path) and os.access(path, os.X_OK):
            return path
    return None


def _is_su_wrapper(path: Path) -> bool:
    # The wrapper may be a copy under the server's own name, so its text tells it.
    try:
        return b"su rabbitmq" in path.read_bytes()[:4096]
    except OSError:
        return False


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *_MORE_PATH])


@dataclass(frozen=True, slots=True)
class BrokerPorts:
    """The five ports of a node, all on loopback."""

    amqp: int
    management: int
    prometheus: int
    distribution: int
    epmd: int

    @classmethod
    def choose(cls) -> BrokerPorts:
        """Five free ones."""
        return cls(*ports.free_ports(5))

    def all_free(self) -> bool:
        """Whether a node could still use them. epmd's own may still be held by ours."""
        return all(ports.is_free(p) for p in (self.amqp, self.management, self.prometheus, self.distribution))


@dataclass(slots=True)
class RabbitServer:
    """One RabbitMQ node run from an installed `rabbitmq-server` script.

    ``folder`` holds all that is its own (data, cookie, configuration); the node's user must be able to enter it.
    The user ``user`` is its only one, made at first boot with the tag administrator.
    """

    title: ClassVar[str] = "RabbitMQ"
    binary: Path
    folder: Path
    log: Path
    node: str
    password: str = field(repr=False)
    ports: BrokerPorts
    user: str = "outhaul"
    identity: Identity = field(default_factory=server_identity)
    statistics_interval_ms: int = 5000
    process: ProcessRef | None = None
    _spawned: Spawned | None = field(default=None, repr=False)

    def amqp_url(self, virtual_host: str = "%2F") -> str:
        """AMQP URL of the administrator; ``virtual_host`` is percent-encoded already."""
        return f"amqp://{self.user}:{self.password}@{ports.LOOPBACK}:{self.ports.amqp}/{virtual_host}"

    def management_url(self) -> str:
        """Base URL of the management API, credentials included."""
        return f"http://{self.user}:{self.password}@{ports.LOOPBACK}:{self.ports.management}"

    def start(self) -> None:
        """Start the node and wait until AMQP and the management API answer. Raises :class:`LocalFailure`."""
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Start the node's process; it is not ready yet."""
        # A first boot that was cut short may have made the data without our user, and no later boot makes him.
        if self._unfinished.exists():
            shutil.rmtree(self.folder / "data", ignore_errors=True)
        fresh = not (self.folder / "data").exists()
        self._configure()
        if fresh:
            self._unfinished.touch()
        self._spawned = spawn(
            [self.binary],
            environment=self._environment(),
            log=self.log,
            folder=self.folder,
            identity=self.identity,
        )
        self.process = self._spawned.ref

    def await_ready(self) -> None:
        """Wait until a launched node answers; one that does not is stopped. Raises :class:`LocalFailure`."""
        try:
            wait_for(self._answers, seconds=START_SECONDS, what="RabbitMQ's first answer", interval_seconds=0.1)
        except TimedOut as late:
            self.stop(keep_data=False)
            raise LocalFailure(f"RabbitMQ did not start: {late}", log=self.log) from late
        except BaseException:
            # Ctrl-C too: what we launched and never saw ready must not stay.
            self.stop(keep_data=False)
            raise
        self._unfinished.unlink(missing_ok=True)

    @property
    def _unfinished(self) -> Path:
        return self.folder / "first-boot-unfinished"

    def _answers(self) -> bool:
        if not self.alive():
            raise LocalFailure("RabbitMQ ended while starting", log=self.log, remedy=_hint(self.log))
        if not ports.is_listening(self.ports.amqp):
            return False
        try:
            answer = httpx.get(
                f"http://{ports.LOOPBACK}:{self.ports.management}/api/whoami",
                auth=(self.user, self.password),
                timeout=3,
                trust_env=False,
            )
        except httpx.HTTPError:
            return False
        if answer.status_code == 401:
            raise LocalFailure(
                "RabbitMQ refuses the password it was made with",
                remedy="its data is of another installation: `make down DATA=delete`, then `make up`",
                log=self.log,
            )
        return answer.status_code == 200

    def alive(self) -> bool:
        """Whether the node's process runs."""
        if self._spawned is not None:
            self._spawned.exit_code()
        return self.process is not None and self.process.alive()

    def stop(self, *, keep_data: bool = True) -> None:
        """Stop the node (in order, but SIGKILL at the deadline) and its port mapper.

        ``keep_data=False`` takes the short way, for a node whose data nobody will want again.
        """
        if self.process is not None:
            first = signal.SIGTERM if keep_data else signal.SIGKILL
            stop(self.process, first=first, grace_seconds=STOP_SECONDS, handle=self._spawned)
        self.process = self._spawned = None
        kill_port_mapper(self.ports.epmd)

    def _configure(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("data", "log"):
            (self.folder / name).mkdir(exist_ok=True)
        files = {
            "rabbitmq.conf": self._configuration(),
            "advanced.config": self._advanced_configuration(),
            "enabled_plugins": f"[{','.join(PLUGINS)}].\n",
            # Read instead of /etc/rabbitmq/rabbitmq-env.conf, which may belong to a system broker.
            "rabbitmq-env.conf": "",
        }
        for name, text in files.items():
            path = self.folder / name
            path.touch(mode=0o600)
            path.write_text(text)
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(os.urandom(16).hex())
            cookie.chmod(0o400)
        self.identity.own(self.folder)

    def _configuration(self) -> str:
        return "\n".join(
            [
                f"listeners.tcp.1 = {ports.LOOPBACK}:{self.ports.amqp}",
                f"management.tcp.ip = {ports.LOOPBACK}",
                f"management.tcp.port = {self.ports.management}",
                f"prometheus.tcp.ip = {ports.LOOPBACK}",
                f"prometheus.tcp.port = {self.ports.prometheus}",
                f"default_user = {self.user}",
                f"default_pass = {self.password}",
                "disk_free_limit.absolute = 50MB",
                f"collect_statistics_interval = {self.statistics_interval_ms}",
                "log.console = false",
                "log.file.level = info",
                "",
            ]
        )

    def _advanced_configuration(self) -> str:
        settings = {
            # A dead-letter queue that comes back is tried again after this long, 3 minutes by default.
            "dead_letter_worker_publisher_confirm_timeout": 5000,
            # A quorum queue tells its depth and policy by a clock of its own.
            "quorum_tick_interval": self.statistics_interval_ms,
        }
        return "[{rabbit, [" + ", ".join(f"{{{name}, {value}}}" for name, value in settings.items()) + "]}].\n"

    def _environment(self) -> dict[str, str]:
        folder = self.folder
        return {
            "PATH": _search_path(),
            "LANG": "C.UTF-8",
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"{self.node}@localhost",
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_DIST_PORT": str(self.ports.distribution),
            "ERL_EPMD_PORT": str(self.ports.epmd),
            "ERL_EPMD_ADDRESS": ports.LOOPBACK,
            "ERL_CRASH_DUMP_SECONDS": "0",
            # The start script then becomes the node itself (it execs) instead of a shell standing before it, so
            # the pid we know is the node's.
            "RUNNING_UNDER_SYSTEMD": "true",
            # +B i: the node ignores SIGINT, as it does under its own shell.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+B i -kernel inet_dist_use_interface {127,0,0,1}",
        }

    def version(self) -> tuple[int, ...]:
        """The running node's version, such as ``(4, 3, 6)``."""
        return broker_version(self.management_url())


def broker_version(management_url: str) -> tuple[int, ...]:
    """The version of the broker behind a management API. Raises :class:`LocalFailure`."""
    try:
        answer = httpx.get(f"{management_url}/api/overview", timeout=10, trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        raise LocalFailure(f"the broker's management API does not answer: {error}") from error
    numbers = str(answer.json()["rabbitmq_version"]).split("-")[0].split("+")[0].split(".")
    return tuple(int(part) for part in numbers if part.isdigit())


def _hint(log: Path) -> str:
    output = tail(log, lines=60)
    known = {
        "eaddrinuse": "another program took one of its ports; run the command again and others are chosen",
        "enospc": "free some disk space",
        "erl: not found": "install Erlang (package `erlang-base` on Debian)",
        "incompatible_feature_flags": "the data is of another RabbitMQ version: `make down DATA=delete` removes it",
    }
    return next((remedy for sign, remedy in known.items() if sign in output), "")

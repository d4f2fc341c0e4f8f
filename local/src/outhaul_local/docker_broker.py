"""RabbitMQ in a container, for a machine that has Docker and no broker of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import httpx

from outhaul_local import ports
from outhaul_local.failure import LocalFailure
from outhaul_local.processes import ProcessRef
from outhaul_local.rabbitmq import START_SECONDS, BrokerPorts
from outhaul_local.waiting import TimedOut, wait_for

IMAGE = "rabbitmq:4.3-management"
PULL_SECONDS = 600.0


def docker_answers() -> str:
    """Empty when a Docker daemon can be used, else why not. The client alone is not enough, so the daemon is asked."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    try:
        answer = subprocess.run(
            ["docker", "info", "--format", "{{.ServerVersion}}"],
            check=False,
            capture_output=True,
            text=True,
            timeout=15,
        )
    except subprocess.TimeoutExpired:
        return "the Docker daemon does not answer within 15 s"
    if answer.returncode != 0 or not answer.stdout.strip():
        said = (answer.stderr or answer.stdout).strip().splitlines()
        return said[-1] if said else "the Docker daemon does not answer"
    return ""


@dataclass(slots=True)
class DockerBroker:
    """One container with a volume of its own; it has no process of ours, so it is known by its name."""

    title: ClassVar[str] = "RabbitMQ"
    name: str
    log: Path
    password: str = field(repr=False)
    ports: BrokerPorts
    user: str = "outhaul"

    process: ProcessRef | None = None  # always None: Docker keeps the process

    def amqp_url(self, virtual_host: str = "%2F") -> str:
        """AMQP URL of the administrator; ``virtual_host`` is percent-encoded already."""
        return f"amqp://{self.user}:{self.password}@{ports.LOOPBACK}:{self.ports.amqp}/{virtual_host}"

    def management_url(self) -> str:
        """Base URL of the management API, credentials included."""
        return f"http://{self.user}:{self.password}@{ports.LOOPBACK}:{self.ports.management}"

    def run_arguments(self) -> list[str]:
        """The arguments of ``docker run``. Data stands in a volume named as the container is."""
        here = ports.LOOPBACK
        # fmt: off
        return [
            "run", "--detach", "--name", self.name,
            # A node's data is bound to its host name.
            "--hostname", self.name,
            "--publish", f"{here}:{self.ports.amqp}:5672",
            "--publish", f"{here}:{self.ports.management}:15672",
            "--publish", f"{here}:{self.ports.prometheus}:15692",
            "--volume", f"{self.name}:/var/lib/rabbitmq",
            # Named alone, so that Docker takes their values from the client's environment, not from an argument
            # that every user of the machine can read.
            "--env", "RABBITMQ_DEFAULT_USER", "--env", "RABBITMQ_DEFAULT_PASS",
            IMAGE,
        ]
        # fmt: on

    def launch(self) -> None:
        """Start the container, fetching the image if it is not there. Raises :class:`LocalFailure`."""
        self._docker("rm", "--force", self.name, seconds=60, check=False)
        self._docker(*self.run_arguments(), seconds=PULL_SECONDS)

    def await_ready(self) -> None:
        """Wait until the management API answers. The container is removed if it does not."""
        try:
            wait_for(self._answers, seconds=START_SECONDS, what="RabbitMQ's first answer", interval_seconds=0.2)
        except TimedOut as late:
            self._keep_log()
            self.stop()
            raise LocalFailure(f"RabbitMQ did not start in its container: {late}", log=self.log) from late
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        if not self.alive():
            self._keep_log()
            raise LocalFailure("the RabbitMQ container ended while starting", log=self.log)
        address = f"http://{ports.LOOPBACK}:{self.ports.management}/api/health/checks/port-listener/5672"
        try:
            answer = httpx.get(address, auth=(self.user, self.password), timeout=3, trust_env=False)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    def alive(self) -> bool:
        """Whether the container runs."""
        answer = self._docker("inspect", "--format", "{{.State.Running}}", self.name, seconds=15, check=False)
        return answer.strip() == "true"

    def stop(self) -> None:
        """Stop and remove the container; its volume stays."""
        self._docker("stop", "--time", "20", self.name, seconds=60, check=False)
        self._docker("rm", "--force", self.name, seconds=60, check=False)

    def remove_data(self) -> None:
        """Remove the volume. The container must be stopped."""
        self._docker("volume", "rm", "--force", self.name, seconds=60, check=False)

    def _keep_log(self) -> None:
        self.log.write_text(self._docker("logs", "--tail", "200", self.name, seconds=15, check=False))

    def _docker(self, *arguments: str, seconds: float, check: bool = True) -> str:
        environment = {
            **os.environ,
            "RABBITMQ_DEFAULT_USER": self.user,
            "RABBITMQ_DEFAULT_PASS": self.password,
        }
        try:
            answer = subprocess.run(
                ["docker", *arguments],
                check=False,
                capture_output=True,
                text=True,
                timeout=seconds,
                env=environment,
            )
        except (subprocess.TimeoutExpired, OSError) as error:
            if check:
                raise LocalFailure(f"docker {arguments[0]}: {error}", remedy="is the Docker daemon well?") from error
            return ""
        if check and answer.returncode != 0:
            raise LocalFailure(f"docker {arguments[0]} failed: {answer.stderr.strip()}")
        return answer.stdout

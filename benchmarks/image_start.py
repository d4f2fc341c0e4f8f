"""``python benchmarks/image_start.py``: how soon an image works, beside how soon its Python does nothing.

For the waybill function until a waiting message's waybill is committed, for the order function until it takes orders.
Needs the images (``make images``) and docker, podman or buildah, whose own start is in both figures.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import consume
import httpx
from parts import Figure, Servers, machine_facts, report, servers

from outhaul.broker_admin.topology_apply import apply
from outhaul_local import ports
from outhaul_waybill.topology import TOPOLOGY

NOTHING = ("python", "-P", "-c", "pass")
DEADLINE_SECONDS = 60.0
MILLISECONDS = 1000


class Containers:
    """One image's containers on the host's network, by whichever builder has it."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._buildah = ""
        if subprocess.run(["docker", "image", "inspect", image], check=False, capture_output=True).returncode == 0:
            self._runner = ["docker", "run", "--rm", "--network=host", "--read-only", "--tmpfs=/tmp"]
        elif shutil.which("podman"):
            self._runner = ["podman", "run", "--rm", "--network=host", "--read-only", "--tmpfs=/tmp"]
        else:
            self._buildah = _said("buildah", "from", "--pull=never", image)
            self._runner = ["buildah", "run", "--isolation=chroot"]

    def close(self) -> None:
        """Remove what was prepared."""
        if self._buildah:
            _said("buildah", "rm", self._buildah)

    def command(self, command: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        """What starts this command in a new container."""
        given = [f"--env={name}={value}" for name, value in environment.items()]
        if self._buildah:
            return [*self._runner, *given, self._buildah, "--", *command]
        return [*self._runner, *given, f"--entrypoint={command[0]}", self._image, *command[1:]]


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def started(command: list[str]) -> Iterator[float]:
    """It runs inside the block; the instant of its start."""
    at = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield at
    finally:
        process.terminate()
        process.wait(30)


def milliseconds_until(done: Callable[[], bool], at: float) -> float:
    """From that instant. Raises SystemExit when it takes too long."""
    while not done():
        if time.perf_counter() - at > DEADLINE_SECONDS:
            raise SystemExit(f"it did not come about within {DEADLINE_SECONDS:g} s")
        time.sleep(0.002)
    return (time.perf_counter() - at) * MILLISECONDS


def nothing(containers: Containers) -> float:
    """How long a container takes whose Python does nothing."""
    at = time.perf_counter()
    subprocess.run(containers.command(NOTHING, {}), check=True, capture_output=True)
    return (time.perf_counter() - at) * MILLISECONDS


def waybill(parts: Servers, containers: Containers) -> float:
    """Until the message that waits has its waybill."""
    url = parts.database("waybill")
    consume.publish(parts, 1)
    environment = {
        "OUTHAUL_WAYBILL_DATABASE_URL": url,
        "OUTHAUL_AMQP_URL": parts.amqp_url,
        "OUTHAUL_HTTP_PORT": str(ports.free_port()),
    }
    with started(containers.command(("python", "-P", "-m", "outhaul_waybill"), environment)) as at:
        return milliseconds_until(lambda: consume.waybills(url) == 1, at)


def order(parts: Servers, containers: Containers) -> float:
    """Until it is ready for orders."""
    port = ports.free_port()
    environment = {
        "OUTHAUL_ORDER_DATABASE_URL": parts.database("order"),
        "OUTHAUL_AMQP_URL": parts.amqp_url,
        "OUTHAUL_HTTP_PORT": str(port),
    }

    # Made before: a client costs as much as the start of a small program.
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:

        def is_ready() -> bool:
            try:
                return client.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        with started(containers.command(("python", "-P", "-m", "outhaul_order"), environment)) as at:
            return milliseconds_until(is_ready, at)


def main() -> None:
    """Several starts of each, in turn with doing nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tag", default="dev")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    figures = [
        Figure("waybill: start to first message consumed", "ms", goal="at most 700 beyond the baseline"),
        Figure("order: start to ready", "ms"),
    ]
    with servers() as parts:
        apply(TOPOLOGY, parts.amqp_url, parts.management_url)
        for figure, name, run in zip(figures, ("waybill", "order"), (waybill, order), strict=True):
            containers = Containers(f"outhaul/{name}:{options.tag}")
            try:
                for _ in range(options.rounds):
                    figure.baseline.append(nothing(containers))
                    figure.measured.append(run(parts, containers))
            finally:
                containers.close()
        report(figures, machine_facts(parts))


if __name__ == "__main__":
    main()

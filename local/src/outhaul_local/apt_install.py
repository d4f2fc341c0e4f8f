"""Getting RabbitMQ by apt, for root on Debian and Ubuntu, without a system broker left running.

Debian starts a service as its package is installed. `policy-rc.d` is the way to forbid that (Debian Policy 9.11.3):
while it answers 101, nothing is started. It is put back as it was, whatever happens.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from outhaul_local.failure import LocalFailure

POLICY = Path("/usr/sbin/policy-rc.d")
PACKAGE = "rabbitmq-server"
INSTALL_SECONDS = 900.0
_DENY = b"#!/bin/sh\n# Outhaul's local mode: no service starts while RabbitMQ is being installed\nexit 101\n"


def can_apt_install() -> bool:
    """Whether we are root on a machine with apt."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def apt_install(log: Path, told: Callable[[str], None]) -> None:
    """Install the package; ``told`` hears what is being done. Raises :class:`LocalFailure`."""
    with services_denied(POLICY):
        told("apt-get update")
        _apt(log, "update")
        told(f"apt-get install {PACKAGE}")
        _apt(log, "install", "--yes", "--no-install-recommends", PACKAGE)
    # We alone installed it, so nobody relies on it starting with the machine.
    if shutil.which("systemctl"):
        subprocess.run(
            ["systemctl", "disable", PACKAGE], check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=60
        )


@contextmanager
def services_denied(policy: Path) -> Iterator[None]:
    """No package starts a service while this lasts; the policy file is put back afterwards."""
    before = policy.read_bytes() if policy.exists() else None
    if before == _DENY:  # ours, left by a run that was killed
        before = None
    mode = policy.stat().st_mode & 0o7777 if before is not None else 0
    policy.write_bytes(_DENY)
    policy.chmod(0o755)
    try:
        yield
    finally:
        if before is None:
            policy.unlink(missing_ok=True)
        else:
            policy.write_bytes(before)
            policy.chmod(mode)


def _apt(log: Path, *arguments: str) -> None:
    command = ["apt-get", "-o", "DPkg::Lock::Timeout=120", *arguments]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with log.open("ab") as output:
        try:
            done = subprocess.run(
                command,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=INSTALL_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise LocalFailure(f"apt-get {arguments[0]} took more than {INSTALL_SECONDS:g} s", log=log) from error
    if done.returncode != 0:
        raise LocalFailure(
            f"apt-get {arguments[0]} failed",
            remedy=f"run `apt-get install {PACKAGE}` by hand, then `make up` again",
            log=log,
        )

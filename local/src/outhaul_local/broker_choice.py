"""Which RabbitMQ: one installed here, else one by apt, else one in Docker, else an error that says what to install."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

from outhaul_local.apt_install import apt_install, can_apt_install
from outhaul_local.docker_broker import docker_answers
from outhaul_local.failure import LocalFailure
from outhaul_local.rabbitmq import find_binary

SETTING = "OUTHAUL_RABBITMQ_SERVER"


def choose_broker(log: Path, told: Callable[[str], None]) -> tuple[str, Path | None]:
    """``("native", script)`` or ``("docker", None)``. Installs by apt where that is possible.

    Raises :class:`LocalFailure` with what to install on this system.
    """
    binary = find_binary(os.environ.get(SETTING))
    if binary is None and can_apt_install():
        apt_install(log, told)
        binary = find_binary()
    if binary is not None:
        return "native", binary
    why_no_docker = docker_answers()
    if not why_no_docker:
        return "docker", None
    raise LocalFailure(
        f"no RabbitMQ here: no rabbitmq-server on PATH or in the usual places, and no Docker ({why_no_docker})",
        remedy=how_to_install(),
    )


def how_to_install(system: str | None = None, distribution: str | None = None) -> str:
    """The command that installs RabbitMQ on this system."""
    system = system or platform.system()
    if system == "Darwin":
        return "run `brew install rabbitmq` (no need to start it), or start Docker Desktop; then `make up` again"
    commands = {
        "debian": "sudo apt-get install --no-install-recommends rabbitmq-server",
        "fedora": "sudo dnf install rabbitmq-server",
        "suse": "sudo zypper install rabbitmq-server",
        "arch": "sudo pacman -S rabbitmq",
        "alpine": "sudo apk add rabbitmq-server",
    }
    words = (distribution if distribution is not None else _distribution()).replace("ubuntu", "debian")
    words = words.replace("rhel", "fedora").replace("centos", "fedora")
    command = next((text for word, text in commands.items() if word in words), None)
    if command is None:
        return f"install RabbitMQ 3.10 or newer, or Docker, or name a rabbitmq-server script in {SETTING}"
    return f"run `{command}` (no need to start it) or start Docker, then `make up` again"


def _distribution() -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return ""
    return f"{release.get('ID', '')} {release.get('ID_LIKE', '')}".lower()

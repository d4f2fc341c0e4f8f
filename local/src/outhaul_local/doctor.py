"""`make doctor`: what local mode needs, what it finds, and the way out where something is missing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import psutil
from rich.console import Console

from outhaul.errors import OuthaulError
from outhaul_local import ports
from outhaul_local.apt_install import can_apt_install
from outhaul_local.broker_choice import SETTING, how_to_install
from outhaul_local.docker_broker import docker_answers
from outhaul_local.exported import read_exported
from outhaul_local.failure import LocalFailure
from outhaul_local.home import Home
from outhaul_local.identity import server_identity
from outhaul_local.installation import DEFAULT_HTTP_PORTS, Installation
from outhaul_local.postgres import wheel_folder
from outhaul_local.rabbitmq import find_binary

NEEDED_DISK_GB = 1.0
NEEDED_MEMORY_GB = 1.0


class Grade(Enum):
    """How a finding counts: only BAD makes `make up` impossible."""

    GOOD = "[green]ok  [/]"
    NOTE = "[yellow]note[/]"
    BAD = "[red]bad [/]"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    grade: Grade
    what: str
    seen: str
    remedy: str = ""


def doctor(home: Home, console: Console) -> bool:
    """Print every finding. Whether `make up` can work."""
    findings = [
        _python(),
        _uv(),
        *_room(home),
        _postgres(),
        _rabbitmq(),
        _docker(),
        _exported(home),
        *_running(home),
    ]
    for finding in findings:
        console.print(f"{finding.grade.value} {finding.what:12} {finding.seen}")
        if finding.remedy:
            console.print(f"     {'':12} -> {finding.remedy}", style="bold" if finding.grade is Grade.BAD else "")
    return all(finding.grade is not Grade.BAD for finding in findings)


def _python() -> Finding:
    seen = f"{platform.python_version()} ({sys.executable})"
    return Finding(Grade.GOOD, "Python", seen)


def _uv() -> Finding:
    tools = Path(".outhaul/tools")
    kept = [str(tools / place) for place in ("bin", "pip/bin", "venv/bin")]
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), *kept])
    found = shutil.which("uv", path=places)
    if found is None:
        return Finding(Grade.NOTE, "uv", "not on PATH", "`make up` gets it from PyPI for this checkout")
    version = subprocess.run([found, "--version"], check=False, capture_output=True, text=True, timeout=20).stdout
    return Finding(Grade.GOOD, "uv", f"{version.strip()} ({found})")


def _room(home: Home) -> list[Finding]:
    folder = next(path for path in (home.folder, *home.folder.parents) if path.exists())
    free_gb = shutil.disk_usage(folder).free / 1e9
    memory_gb = psutil.virtual_memory().available / 1e9
    disk = Finding(Grade.GOOD, "disk", f"{free_gb:.1f} GB free for {home.folder}")
    if free_gb < NEEDED_DISK_GB:
        disk = Finding(Grade.BAD, "disk", disk.seen, f"free {NEEDED_DISK_GB:g} GB, or set OUTHAUL_HOME elsewhere")
    elif not os.access(folder, os.W_OK):
        disk = Finding(Grade.BAD, "disk", f"{folder} cannot be written", "run as its owner, or set OUTHAUL_HOME")
    memory = Finding(Grade.GOOD, "memory", f"{memory_gb:.1f} GB available")
    if memory_gb < NEEDED_MEMORY_GB:
        memory = Finding(Grade.NOTE, "memory", memory.seen, f"{NEEDED_MEMORY_GB:g} GB is comfortable")
    return [disk, memory]


def _postgres() -> Finding:
    try:
        folder = wheel_folder()
    except LocalFailure as failure:
        return Finding(Grade.BAD, "PostgreSQL", str(failure), failure.remedy)
    program = folder / "pginstall" / "bin" / "postgres"
    try:
        answer = subprocess.run([program, "--version"], check=False, capture_output=True, text=True, timeout=20)
    except OSError as error:
        return Finding(Grade.BAD, "PostgreSQL", f"{program}: {error.strerror}", "is the file system mounted noexec?")
    if answer.returncode != 0:
        return Finding(Grade.BAD, "PostgreSQL", answer.stderr.strip()[:200], "the wheel does not run on this machine")
    return Finding(Grade.GOOD, "PostgreSQL", f"{answer.stdout.strip()}, run as user {server_identity().name}")


def _rabbitmq() -> Finding:
    try:
        binary = find_binary(os.environ.get(SETTING))
    except LocalFailure as failure:
        return Finding(Grade.BAD, "RabbitMQ", str(failure), failure.remedy)
    if binary is not None:
        return Finding(Grade.GOOD, "RabbitMQ", str(binary))
    if can_apt_install():
        return Finding(Grade.NOTE, "RabbitMQ", "not installed", "`make up` installs it by apt, without its service")
    if not docker_answers():
        return Finding(Grade.NOTE, "RabbitMQ", "not installed", "`make up` runs it in Docker")
    return Finding(Grade.BAD, "RabbitMQ", "not installed", how_to_install())


def _docker() -> Finding:
    why_not = docker_answers()
    if why_not:
        return Finding(Grade.NOTE, "Docker", f"not usable: {why_not}", "needed only where RabbitMQ is not installed")
    return Finding(Grade.GOOD, "Docker", "the daemon answers")


def _exported(home: Home) -> Finding:
    try:
        found = read_exported(os.environ, home, allow_remote=False)
    except OuthaulError as error:
        return Finding(Grade.BAD, "environment", str(error), "unset it, or `make up ALLOW_REMOTE=1` if it is meant")
    used = [*found.databases, *(["broker"] if found.amqp_url else [])]
    if used:
        return Finding(Grade.NOTE, "environment", f"exported and used in place of our own: {', '.join(used)}")
    return Finding(Grade.GOOD, "environment", "no server of somebody else's is exported")


def _running(home: Home) -> list[Finding]:
    if not home.state_file.exists():
        return [_port(name, port) for name, port in DEFAULT_HTTP_PORTS.items()]
    try:
        installation = Installation.open(home)
    except LocalFailure as failure:
        return [Finding(Grade.BAD, "state", str(failure), failure.remedy)]
    if not installation.state.up:
        return [_port(name, port) for name, port in DEFAULT_HTTP_PORTS.items()]
    findings = []
    for service in installation.services():
        if service.alive():
            pid = f"process {service.process.pid}" if service.process else "container"
            findings.append(Finding(Grade.GOOD, "running", f"{service.title} ({pid})"))
        else:
            findings.append(
                Finding(Grade.BAD, "not running", service.title, f"`make up` starts it; log: {service.log}")
            )
    supervisor = installation.state.supervisor
    if supervisor is None or not supervisor.alive():
        findings.append(Finding(Grade.NOTE, "not running", "supervisor", "`make up` starts it"))
    return findings


def _port(name: str, port: int) -> Finding:
    if ports.is_free(port):
        return Finding(Grade.GOOD, "port", f"{port} is free for the {name} function")
    return Finding(Grade.NOTE, "port", f"{port} is taken", f"the {name} function gets another, and `make up` prints it")

"""`make down`: everything stopped in order; the data stays unless it is to go."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from outhaul_local.docker_broker import DockerBroker
from outhaul_local.function_process import FunctionProcess
from outhaul_local.home import Home
from outhaul_local.installation import Installation, Service
from outhaul_local.processes import stop
from outhaul_local.progress import Steps
from outhaul_local.state import load

SUPERVISOR_STOP_SECONDS = 10.0
# What stays when the data goes: which URLs were ours (see `exported`), the lock we hold, and the uv that runs us.
KEPT = ("issued", "lock", "tools")


def down(home: Home, console: Console, *, delete_data: bool) -> None:
    """Stop all of it. Raises LocalFailure when another command does not let go of the folder."""
    if not home.state_file.exists():
        console.print(f"Nothing was started from {home.folder}.", highlight=False)
        return
    # First of all, and without the lock: it may hold it, and would start again what is stopped below.
    supervisor = load(home).supervisor
    if supervisor is not None:
        stop(supervisor, grace_seconds=SUPERVISOR_STOP_SECONDS)
    with home.lock(told="Another command is at work here; waiting for it."), Steps(console) as steps:
        installation = Installation.open(home)
        installation.state.up = False
        if installation.state.supervisor is not None:
            stop(installation.state.supervisor, grace_seconds=SUPERVISOR_STOP_SECONDS)
            installation.state.supervisor = None
        installation.save()
        services = installation.services()
        # The servers last: the functions drain into them.
        _stop_all(installation, [service for service in services if isinstance(service, FunctionProcess)], steps)
        _stop_all(installation, [service for service in services if not isinstance(service, FunctionProcess)], steps)
        if delete_data:
            _delete(installation)
            console.print("Data removed.", highlight=False)


def _stop_all(installation: Installation, services: Sequence[Service], steps: Steps) -> None:
    running = [service for service in services if service.alive()]
    begun = [steps.begin(service.title[0].upper() + service.title[1:]) for service in running]
    with ThreadPoolExecutor(max_workers=4) as pool:
        stopping = [pool.submit(service.stop) for service in running]
        for service, step, stopped in zip(running, begun, stopping, strict=True):
            stopped.result(timeout=120)
            step.done("stopped")
            installation.record(service)


def _delete(installation: Installation) -> None:
    broker = installation.broker()
    if isinstance(broker, DockerBroker):
        broker.remove_data()
    servers = installation.state.servers_folder
    if servers:
        shutil.rmtree(Path(servers), ignore_errors=True)
    for path in installation.home.folder.iterdir():
        if path.name in KEPT:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

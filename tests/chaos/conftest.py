"""The servers under chaos, the system over them, and the report of a run.

``CHAOS_SEED`` replays a run's random choices; ``CHAOS_REPORT`` names a JSON file to write.
"""

from __future__ import annotations

import json
import os
import platform
import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from chaos.cluster import Cluster
from chaos.servers import Servers, rabbit_server, start_postgres
from chaos.system import System, assembled
from conftest import missing
from outhaul.broker_admin.topology_apply import apply
from outhaul_local.failure import LocalFailure
from outhaul_local.rabbitmq import find_binary
from outhaul_local.tether import Tether
from outhaul_waybill.topology import TOPOLOGY

Assemble = Callable[[tuple[str, str]], AbstractContextManager[System]]
SEED = os.environ.get("CHAOS_SEED") or secrets.token_hex(4)
COLUMNS = ("attempted", "acknowledged", "recovered", "parked", "dead_lettered", "backlog", "drain_seconds")
LISTS = ("lost", "duplicated", "unexpected")
_rows: dict[str, dict[str, object]] = {}
_facts: dict[str, str] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every wait of a scenario has a bound of its own; what starts servers for all of them may take long."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def servers(servers_folder: Path, tether: Tether) -> Iterator[Servers]:
    """Own servers: they are stopped, filled and locked here."""
    binary = find_binary(os.environ.get("OUTHAUL_RABBITMQ_SERVER"))
    if binary is None:
        missing("rabbitmq-server")
        return
    broker = rabbit_server(binary, servers_folder)
    try:
        broker.launch()
        order, waybill = (start_postgres(servers_folder, f"chaos-{name}") for name in ("order", "waybill"))
        broker.await_ready()
    except LocalFailure as error:
        missing(f"a server ({error})")
        return
    made = Servers(order, waybill, broker, tether)
    made.hold()
    yield made
    broker.stop(keep_data=False)
    order.stop()
    waybill.stop()


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """This scenario's own random choices, the same for the same seed."""
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture
def assemble(servers: Servers, tmp_path: Path, rng: random.Random, request: pytest.FixtureRequest) -> Assemble:
    """Makes the system over databases of the scenario's choice."""

    @contextmanager
    def make(dsns: tuple[str, str]) -> Iterator[System]:
        with servers.virtual_host() as broker:
            apply(TOPOLOGY, broker.amqp_url, broker.management_url)
            with assembled(dsns, broker, tmp_path, servers.tether, rng) as made:
                yield made
        _judged(request.node.nodeid, made)

    return make


@pytest.fixture
def system(assemble: Assemble, servers: Servers) -> Iterator[System]:
    """Databases, queues and proxies of this scenario's own, no function started yet."""
    servers.mend()
    with servers.databases() as dsns, assemble(dsns) as made:
        yield made


@pytest.fixture(scope="session")
def cluster(servers_folder: Path, tether: Tether) -> Iterator[Cluster]:
    """Three nodes, all running at first."""
    binary = find_binary(os.environ.get("OUTHAUL_RABBITMQ_SERVER"))
    if binary is None:
        missing("rabbitmq-server")
        return
    made = Cluster.form(binary, servers_folder, tether)
    yield made
    made.end()


@pytest.fixture
def clustered(
    cluster: Cluster, servers: Servers, tmp_path: Path, rng: random.Random, request: pytest.FixtureRequest
) -> Iterator[System]:
    """As ``system``, over the cluster."""
    cluster.mend()
    servers.mend()
    with servers.databases() as dsns, cluster.virtual_host() as broker:
        apply(TOPOLOGY, broker.amqp_url, broker.management_url)
        others = cluster.addresses()[1:]
        with assembled(dsns, broker, tmp_path, servers.tether, rng, more_nodes=others) as made:
            yield made
    _judged(request.node.nodeid, made)


def _judged(scenario: str, system: System) -> None:
    _facts["rabbitmq"] = ".".join(map(str, system.broker.version))
    _rows.setdefault(scenario, {})["verdict"] = system.verdict.as_json() if system.verdict else None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "chaos/" in report.nodeid and (report.when == "call" or report.outcome != "passed"):
        row = _rows.setdefault(report.nodeid, {})
        row.update(outcome=report.outcome, seconds=round(report.duration, 1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    scenarios = {name: row for name, row in _rows.items() if row.get("verdict") or row.get("outcome") == "failed"}
    if not scenarios:
        return
    terminalreporter.section(f"chaos, CHAOS_SEED={SEED}")
    terminalreporter.write_line(" ".join(f"{name[:9]:>9}" for name in (*COLUMNS, *LISTS)) + "  scenario")
    for name, row in scenarios.items():
        verdict, failed = row.get("verdict"), row.get("outcome") == "failed"
        figures = ["-"] * len((*COLUMNS, *LISTS))  # what failed before the ledger was read has none
        if isinstance(verdict, dict):
            figures = [*(str(verdict[each]) for each in COLUMNS), *(str(len(verdict[each])) for each in LISTS)]
        scenario = name.rpartition("::")[2] + (" FAILED" if failed else "")
        terminalreporter.write_line(" ".join(f"{each:>9}" for each in figures) + f"  {scenario}")
    path = os.environ.get("CHAOS_REPORT")
    if path:
        facts = {"seed": SEED, "machine": platform.platform(), "cpus": os.cpu_count(), **_facts, "scenarios": _rows}
        Path(path).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        terminalreporter.write_line(f"written to {path}")

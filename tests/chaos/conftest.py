"""The servers under chaos, the system over them, and the report of a run.

``CHAOS_SEED`` replays a run's random choices; ``CHAOS_REPORT`` names a JSON file to write.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from chaos.cluster import Cluster
from chaos.run_facts import postgres_version, run_facts
from chaos.servers import Servers, rabbit_server, start_postgres
from chaos.system import System, assembled
from conftest import missing
from outhaul.broker_admin.topology_apply import apply
from outhaul_local.failure import LocalFailure
from outhaul_local.rabbitmq import find_binary
from outhaul_local.tether import Tether
from outhaul_waybill.topology import TOPOLOGY

Assemble = Callable[[tuple[str, str]], AbstractContextManager[System]]
SEED = os.environ["CHAOS_SEED"]  # drawn before the workers of a run begin, so that they have it in common
VERDICT, VERSIONS = "chaos verdict", "chaos versions"
COLUMNS = ("attempted", "acknowledged", "recovered", "parked", "dead_lettered", "backlog", "drain_seconds")
LISTS = ("lost", "duplicated", "unexpected")
_rows: dict[str, dict[str, object]] = {}
_facts: dict[str, str] = run_facts()


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
            with assembled(dsns, broker, tmp_path, servers.tether, rng) as made, judged(request.node, made):
                yield made

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
    cluster.renew()
    servers.mend()
    with servers.databases() as dsns, cluster.virtual_host() as broker:
        apply(TOPOLOGY, broker.amqp_url, broker.management_url)
        others = cluster.addresses()[1:]
        with (
            assembled(dsns, broker, tmp_path, servers.tether, rng, more_nodes=others) as made,
            judged(request.node, made),
        ):
            yield made


@contextmanager
def judged(scenario: pytest.Item, system: System) -> Iterator[None]:
    """Hand the ledger's verdict to the report, whatever became of the scenario; over a worker's end too."""
    versions = {"RabbitMQ": ".".join(map(str, system.broker.version)), "PostgreSQL": postgres_version(system.order_dsn)}
    try:
        yield
    finally:
        scenario.user_properties += [
            (VERSIONS, versions),
            (VERDICT, system.verdict.as_json() if system.verdict else None),
        ]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "chaos/" not in report.nodeid:
        return
    row = _rows.setdefault(report.nodeid, {"verdict": None})
    if report.when == "call" or report.outcome != "passed":
        row.update(outcome=report.outcome, seconds=round(report.duration, 1))
    found: dict[str, Any] = dict(report.user_properties)
    row["verdict"] = found.get(VERDICT) or row["verdict"]
    _facts.update(found.get(VERSIONS, {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    scenarios = {name: row for name, row in _rows.items() if row.get("outcome") in {"passed", "failed"}}
    if not scenarios:
        return
    terminalreporter.section(f"chaos, CHAOS_SEED={SEED}")
    terminalreporter.write_line(" ".join(f"{name[:9]:>9}" for name in (*COLUMNS, *LISTS)) + "  scenario")
    for name, row in scenarios.items():
        verdict, failed = row.get("verdict"), row.get("outcome") == "failed"
        figures = ["-"] * len((*COLUMNS, *LISTS))  # what never came to a ledger has none
        if isinstance(verdict, dict):
            figures = [*(str(verdict[each]) for each in COLUMNS), *(str(len(verdict[each])) for each in LISTS)]
        scenario = name.rpartition("::")[2] + (" FAILED" if failed else "")
        terminalreporter.write_line(" ".join(f"{each:>9}" for each in figures) + f"  {scenario}")
    path = os.environ.get("CHAOS_REPORT")
    if path:
        facts = {"seed": SEED, **_facts, "scenarios": _rows}
        Path(path).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        terminalreporter.write_line(f"written to {path}")

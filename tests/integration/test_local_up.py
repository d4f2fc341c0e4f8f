"""Local mode as a person uses it: one installation in a folder of its own, brought up, broken, and taken down."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pika
import psutil
import psycopg
import pytest
from pika.exceptions import ChannelClosedByBroker

from outhaul_local.home import Home
from outhaul_local.installation import DEFAULT_HTTP_PORTS, Installation
from outhaul_local.state import FUNCTIONS, State, load
from outhaul_local.tether import Tether
from support import poll

pytestmark = [pytest.mark.needs("rabbitmq-server"), pytest.mark.timeout(240)]

ORDER = {"customer": "Ada", "lines": [{"sku": "TEA-01", "quantity": 2, "unit_price_cents": 1999}]}


def command(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "outhaul_local", "--home", str(home), *arguments]


def environment() -> dict[str, str]:
    """Ours without what would point local mode at other servers."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OUTHAUL_") or "RABBITMQ" in name}


def run(home: Path, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(home, *arguments),
        check=False,
        capture_output=True,
        text=True,
        input=text,
        env=environment(),
        timeout=200,
    )


def processes_of(home: Path) -> list[str]:
    """Every process that has this folder (or the servers' folder that goes with it) in its command or environment."""
    signs = (str(home), Home(home).digest)
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = [*process.cmdline(), *process.environ().values()]
            if "outhaul_local.tether" in words:  # this module's own
                continue
            if process.pid != os.getpid() and any(sign in word for sign in signs for word in words):
                found.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
    return found


def assert_nothing_runs(home: Path, *, seconds: float = 10) -> None:
    left: list[str] = []

    def gone() -> bool:
        left[:] = processes_of(home)
        return not left

    with contextlib.suppress(AssertionError):
        poll(gone, seconds=seconds)
    assert left == []


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A running installation: its folder, and what `up` printed. The usual ports are taken, by us or by somebody."""
    home = tmp_path_factory.mktemp("home")
    with Tether(home), contextlib.ExitStack() as held:
        for port in DEFAULT_HTTP_PORTS.values():
            taken = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                taken.bind(("127.0.0.1", port))
                taken.listen()
        try:
            done = run(home, "up")
            assert done.returncode == 0, done.stdout + done.stderr
            yield home, done.stdout
        finally:
            run(home, "down", "--delete-data")


@pytest.fixture
def home(up: tuple[Path, str]) -> Path:
    return up[0]


@pytest.fixture
def state(home: Path) -> State:
    return load(Home(home))


@pytest.fixture
def settings(home: Path) -> dict[str, str]:
    lines = [line for line in (home / "env").read_text().splitlines() if line.startswith("export ")]
    return dict(shlex.split(line)[1].split("=", 1) for line in lines)


def place(home: Path) -> str | None:
    """Place an order; its id, or None while there is no answer."""
    try:
        answer = httpx.post(f"{url_of(home, 'order')}/orders", json=ORDER, trust_env=False, timeout=5)
    except httpx.HTTPError:
        return None
    return str(answer.json()["order_id"]) if answer.status_code == 201 else None


def waybill(home: Path, order_id: str) -> Any:
    try:
        answer = httpx.get(f"{url_of(home, 'waybill')}/waybills/{order_id}", trust_env=False, timeout=5)
    except httpx.HTTPError:
        return None
    return answer.json() if answer.status_code == 200 else None


def url_of(home: Path, function: str) -> str:
    return f"http://127.0.0.1:{load(Home(home)).functions[function].port}"


def test_up_shows_the_waybills_of_its_first_orders(up: tuple[Path, str]) -> None:
    assert "20 orders, 20 waybills" in up[1]


def test_a_taken_port_is_moved_and_told(up: tuple[Path, str], state: State) -> None:
    for name, port in DEFAULT_HTTP_PORTS.items():
        assert state.functions[name].port != port
        assert f"port {port} is taken, so the {name} function has {state.functions[name].port}" in up[1]


def test_the_file_to_source_holds_all_settings_for_us_alone(home: Path, settings: dict[str, str]) -> None:
    assert stat.S_IMODE((home / "env").stat().st_mode) == 0o600
    assert set(settings) == {
        "OUTHAUL_ORDER_DATABASE_URL",
        "OUTHAUL_WAYBILL_DATABASE_URL",
        "OUTHAUL_AMQP_URL",
        "OUTHAUL_MANAGEMENT_URL",
        "OUTHAUL_ALERT_WEBHOOK_URL",
    }
    with psycopg.connect(settings["OUTHAUL_ORDER_DATABASE_URL"]) as conn:
        assert conn.execute("SELECT count(*) >= 20 FROM orders").fetchone() == (True,)


def test_everything_listens_on_loopback_alone(state: State) -> None:
    references = [state.postgres.process, state.broker.process, *(state.functions[name].process for name in FUNCTIONS)]
    for reference in references:
        assert reference is not None
        for connection in psutil.Process(reference.pid).net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip == "127.0.0.1"


def test_a_second_up_changes_nothing(home: Path, state: State) -> None:
    done = run(home, "up")
    assert done.returncode == 0
    assert "Everything ran already" in done.stdout
    again = load(Home(home))
    assert (again.postgres, again.broker, again.functions) == (state.postgres, state.broker, state.functions)


def test_a_function_process_has_only_the_settings_it_uses(state: State) -> None:
    process = state.functions["waybill"].process
    assert process is not None
    given = {name for name in psutil.Process(process.pid).environ() if name.startswith("OUTHAUL_")}
    assert given == {
        "OUTHAUL_WAYBILL_DATABASE_URL",
        "OUTHAUL_AMQP_URL",
        "OUTHAUL_ALERT_WEBHOOK_URL",
        "OUTHAUL_HTTP_HOST",
        "OUTHAUL_HTTP_PORT",
    }


def test_a_functions_database_role_is_kept_to_its_own_rows(home: Path) -> None:
    installation = Installation.open(Home(home))
    own = installation.database_url("order", as_function=True)
    with psycopg.connect(own) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("CREATE TABLE mine (id int)")
    other = own.rpartition("/")[0] + "/outhaul_waybill"
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(other)


def test_a_functions_broker_user_can_declare_nothing(home: Path) -> None:
    url = Installation.open(Home(home)).amqp_url("order")
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        with pytest.raises(ChannelClosedByBroker) as refused:
            connection.channel().queue_declare("mine")
        assert refused.value.reply_code == 403
    finally:
        connection.close()


def test_an_alert_is_kept_where_a_person_finds_it(home: Path, settings: dict[str, str]) -> None:
    alert = {"version": "4", "alerts": [{"labels": {"alertname": "OutboxStuck"}}]}
    answer = httpx.post(settings["OUTHAUL_ALERT_WEBHOOK_URL"], json=alert, trust_env=False)
    assert answer.status_code == 204
    assert httpx.post(settings["OUTHAUL_ALERT_WEBHOOK_URL"], content=b"{", trust_env=False).status_code == 400
    last = (home / "log" / "alerts.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["notification"] == alert


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_killed_function_is_started_again(home: Path, state: State, name: str) -> None:
    process = state.functions[name].process
    assert process is not None
    process.signal(signal.SIGKILL)
    poll(lambda: load(Home(home)).functions[name].process != process, seconds=20, what="another process")
    order_id = poll(lambda: place(home) or "", seconds=20, what="an accepted order")
    poll(lambda: waybill(home, order_id), seconds=20, what="its waybill")


def test_a_killed_database_is_started_again_and_orders_go_on(home: Path, state: State) -> None:
    process = state.postgres.process
    assert process is not None
    process.signal(signal.SIGKILL)
    poll(lambda: load(Home(home)).postgres.process != process, seconds=30, what="another process")
    order_id = poll(lambda: place(home) or "", seconds=30, what="an accepted order")
    assert poll(lambda: waybill(home, order_id), seconds=30, what="its waybill")["customer"] == "Ada"


def test_a_stream_of_orders_is_accounted_for(home: Path) -> None:
    done = run(home, "demo", "--number", "300")
    assert done.returncode == 0, done.stdout
    table = rows_of(done.stdout)
    assert (table["accepted"], table["sent"], table["waybills"], table["lost"]) == ("300", "300", "300", "0")


def test_lines_from_standard_input_are_sent_and_bad_ones_told_by_number(home: Path) -> None:
    lines = [json.dumps(ORDER), "no json", json.dumps({**ORDER, "lines": []}), json.dumps(ORDER)]
    done = run(home, "demo", "--file", "-", text="\n".join(lines))
    assert done.returncode == 0, done.stdout
    assert "line 2 skipped: not JSON" in done.stdout
    assert "line 3 skipped: status 422: lines" in done.stdout
    table = rows_of(done.stdout)
    assert (table["accepted"], table["lines skipped"], table["lost"]) == ("2", "1", "0")


def test_nothing_is_lost_while_functions_are_killed(home: Path) -> None:
    done = run(home, "demo", "--number", "600", "--rate", "200", "--kill", "--seed", str(seed_that_kills("waybill")))
    assert done.returncode == 0, done.stdout
    table = rows_of(done.stdout)
    assert (table["accepted"], table["waybills"], table["lost"]) == ("600", "600", "0")
    assert "waybill" in table["functions killed"]


def seed_that_kills(name: str) -> int:
    """A seed whose first victims are all this function: killing a sender costs a lease's time at the end."""
    for seed in range(1000):
        dice = random.Random(seed)
        victims = []
        for _ in range(4):
            dice.uniform(1, 3)
            victims.append(dice.choice(FUNCTIONS))
        if set(victims) == {name}:
            return seed
    raise AssertionError("no such seed")


def rows_of(output: str) -> dict[str, str]:
    """The demo's last table."""
    cells = [line.strip("│").split("│") for line in output.splitlines() if line.startswith("│")]
    return {name.strip(): value.strip() for name, value in cells}


@pytest.mark.parametrize("moment", ["starting on new data", "20 orders"])
def test_an_interrupted_up_leaves_nothing_running(tmp_path: Path, moment: str) -> None:
    home = tmp_path / "home"
    with subprocess.Popen(
        command(home, "up"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment(), "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    ) as started:
        assert started.stdout is not None
        said = ""
        for line in started.stdout:
            said += line
            if moment in line:
                os.kill(started.pid, signal.SIGINT)
                break
        said += started.stdout.read()
        code = started.wait(timeout=60)
    if code == 0:  # it was done before the signal came
        run(home, "down", "--delete-data")
        return
    assert code == 130, said
    assert "nothing that this command started is left running" in said
    assert_nothing_runs(home)
    run(home, "down", "--delete-data")


def test_an_installation_whose_folder_is_removed_ends_by_itself(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert run(home, "up", "--orders", "0").returncode == 0
    servers = Path(load(Home(home)).servers_folder)
    shutil.rmtree(home)
    assert_nothing_runs(home, seconds=20)
    assert not servers.exists()


def test_down_stops_everything_and_keeps_the_data(home: Path, state: State) -> None:
    assert run(home, "down").returncode == 0
    assert_nothing_runs(home)
    assert (Path(state.servers_folder) / "postgres" / "data" / "PG_VERSION").exists()
    assert run(home, "down", "--delete-data").returncode == 0
    assert not Path(state.servers_folder).exists()

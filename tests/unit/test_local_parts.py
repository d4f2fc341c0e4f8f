"""Small parts of local mode that decide something without a server."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from outhaul_local import ports
from outhaul_local.apt_install import services_denied
from outhaul_local.broker_choice import how_to_install
from outhaul_local.docker_broker import DockerBroker
from outhaul_local.failure import LocalFailure
from outhaul_local.home import Home, write_private
from outhaul_local.identity import Identity
from outhaul_local.installation import Installation
from outhaul_local.main import main
from outhaul_local.processes import rotate, tail
from outhaul_local.rabbitmq import BrokerPorts, find_binary
from outhaul_local.sample_orders import sample_order
from outhaul_local.state import State, load, save
from outhaul_local.waiting import TimedOut, wait_for

ROOT = Path(__file__).parents[2]


def get_uv() -> ModuleType:
    spec = importlib.util.spec_from_file_location("get_uv", ROOT / "local" / "get_uv.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wheels(*names: str) -> list[dict[str, str]]:
    return [{"filename": name} for name in names]


@pytest.mark.parametrize(
    ("system", "machine", "libc", "ending"),
    [
        ("Linux", "x86_64", "glibc", "manylinux_2_17_x86_64.manylinux2014_x86_64.whl"),
        ("Linux", "aarch64", "glibc", "manylinux_2_17_aarch64.whl"),
        ("Linux", "x86_64", "", "musllinux_1_1_x86_64.whl"),
        ("Darwin", "arm64", "", "macosx_11_0_arm64.whl"),
    ],
)
def test_the_newest_wheel_for_this_machine_is_chosen(system: str, machine: str, libc: str, ending: str) -> None:
    tags = (
        "manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "manylinux_2_17_aarch64.whl",
        "musllinux_1_1_x86_64.whl",
        "macosx_11_0_arm64.whl",
        "win_amd64.whl",
    )
    files = wheels(*(f"uv-0.{minor}.0-py3-none-{tag}" for minor in (9, 10, 2) for tag in tags), "uv-0.10.0.tar.gz")
    assert get_uv().choose_wheel(files, system, machine, libc)["filename"] == f"uv-0.10.0-py3-none-{ending}"


def test_a_machine_without_a_wheel_is_named() -> None:
    with pytest.raises(RuntimeError, match="vax"):
        get_uv().choose_wheel(wheels("uv-0.10.0-py3-none-win_amd64.whl"), "Linux", "vax", "glibc")


def test_services_are_denied_while_a_package_is_installed_and_the_policy_comes_back(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    with services_denied(policy):
        assert "exit 101" in policy.read_text()
        assert policy.stat().st_mode & 0o111
    assert not policy.exists()
    policy.write_text("#!/bin/sh\nexit 0\n")
    policy.chmod(0o700)
    with pytest.raises(ValueError, match="apt"), services_denied(policy):
        raise ValueError("apt failed")
    assert policy.read_text() == "#!/bin/sh\nexit 0\n"
    assert policy.stat().st_mode & 0o777 == 0o700


def test_a_policy_left_by_a_killed_run_is_not_kept(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    with services_denied(policy):
        left = policy.read_bytes()
    policy.write_bytes(left)
    with services_denied(policy):
        pass
    assert not policy.exists()


@pytest.mark.parametrize(
    ("system", "distribution", "command"),
    [
        ("Darwin", "", "brew install rabbitmq"),
        ("Linux", "ubuntu debian", "apt-get install"),
        ("Linux", "debian ", "apt-get install"),
        ("Linux", "rocky rhel centos fedora", "dnf install"),
        ("Linux", "something else", "OUTHAUL_RABBITMQ_SERVER"),
    ],
)
def test_what_to_install_is_said_for_each_system(system: str, distribution: str, command: str) -> None:
    assert command in how_to_install(system, distribution)


def test_docker_is_told_no_password_on_its_command_line_and_opens_loopback_only() -> None:
    broker = DockerBroker("outhaul-x", Path("log"), "top-secret", BrokerPorts(1, 2, 3, 4, 5))
    arguments = broker.run_arguments()
    assert "top-secret" not in " ".join(arguments)
    assert [text for text in arguments if text.startswith("127.0.0.1:")] == [
        "127.0.0.1:1:5672",
        "127.0.0.1:2:15672",
        "127.0.0.1:3:15692",
    ]


def test_a_named_broker_that_cannot_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalFailure, match="OUTHAUL_RABBITMQ_SERVER"):
        find_binary(str(tmp_path / "none"))


def test_free_ports_are_different_and_below_the_ephemeral_range() -> None:
    found = ports.free_ports(20)
    assert len(set(found)) == 20
    assert all(20000 <= port < 32000 for port in found)


def test_state_comes_back_as_it_was_saved_and_only_we_can_read_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    state = State(up=True)
    state.broker.ports = BrokerPorts(1, 2, 3, 4, 5)
    save(home, state)
    assert load(home) == state
    assert home.state_file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 99}', '{"up": "yes"}', "\x00"])
def test_a_damaged_state_is_told_with_a_way_out(tmp_path: Path, content: str) -> None:
    home = Home(tmp_path)
    home.state_file.write_text(content)
    with pytest.raises(LocalFailure) as failure:
        load(home)
    assert failure.value.remedy


def test_a_private_file_replaces_an_open_one(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_commands_do_not_hold_the_same_folder(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.lock():
        assert not home.lock_is_free()
        with pytest.raises(LocalFailure, match="another command"), home.lock(seconds=0.1):
            pass
    assert home.lock_is_free()


def test_a_logs_end_is_read_and_a_grown_one_is_set_aside(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert tail(log) == ""
    log.write_text("\n".join(str(number) for number in range(100_000)))
    assert tail(log, lines=2) == "99998\n99999"
    rotate(log, above_bytes=1000)
    assert not log.exists()
    assert (tmp_path / "x.log.1").exists()


def test_waiting_ends_at_its_deadline() -> None:
    with pytest.raises(TimedOut, match="a miracle"):
        wait_for(lambda: False, seconds=0.05, what="a miracle")


def test_sample_orders_are_what_the_order_function_takes() -> None:
    for number in range(50):
        order = sample_order(number)
        assert order["customer"]
        assert all(line["quantity"] > 0 and line["unit_price_cents"] > 0 for line in order["lines"])


def test_a_command_outside_an_installation_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--home", str(tmp_path / "none"), "demo"]) == 3
    assert "make up" in capsys.readouterr().out
    assert main(["--home", str(tmp_path / "none"), "down"]) == 0


def test_a_wrong_number_is_refused_before_anything_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--home", str(tmp_path), "demo", "--number", "0"]) == 2
    assert "N='0'" in capsys.readouterr().out


def test_an_installation_whose_broker_was_never_chosen_can_be_looked_at_and_taken_down(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make()
    installation = Installation(home, State(), Identity("me"))
    installation.save()
    assert [service.title for service in installation.services()] == ["PostgreSQL"]
    assert main(["--home", str(tmp_path), "down", "--delete-data"]) == 0

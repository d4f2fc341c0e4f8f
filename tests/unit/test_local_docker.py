"""The way through Docker, with a `docker` command that writes down what it is asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from outhaul_local import broker_choice, rabbitmq
from outhaul_local.broker_choice import choose_broker
from outhaul_local.docker_broker import IMAGE, DockerBroker, docker_answers
from outhaul_local.failure import LocalFailure
from outhaul_local.rabbitmq import BrokerPorts

FAKE = """#!{python}
import json, os, sys
with open({record!r}, "a") as record:
    record.write(json.dumps({{"arguments": sys.argv[1:], "password": os.environ.get("RABBITMQ_DEFAULT_PASS")}}) + "\\n")
if sys.argv[1] == "info" and {dead!r}:
    sys.exit("Cannot connect to the Docker daemon")
print({{"info": "29.0", "inspect": "true"}}.get(sys.argv[1], ""))
"""


class FakeDocker:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder / "record.jsonl"

    def install(self, *, dead: bool = False) -> None:
        program = self.folder / "docker"
        program.write_text(FAKE.format(python=sys.executable, record=str(self.record), dead=dead))
        program.chmod(0o755)

    def calls(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.record.read_text().splitlines()]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    """The only program on PATH, on a machine without RabbitMQ that is not ours to install on."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("OUTHAUL_RABBITMQ_SERVER", raising=False)
    monkeypatch.setattr(rabbitmq, "USUAL_PLACES", ())
    monkeypatch.setattr(rabbitmq, "_MORE_PATH", ())
    monkeypatch.setattr(broker_choice, "can_apt_install", lambda: False)
    return FakeDocker(tmp_path)


def test_docker_is_chosen_where_no_broker_is_installed(docker: FakeDocker, tmp_path: Path) -> None:
    docker.install()
    assert docker_answers() == ""
    assert choose_broker(tmp_path / "log", lambda _: None) == ("docker", None)


def test_a_client_without_a_daemon_is_no_docker(docker: FakeDocker, tmp_path: Path) -> None:
    docker.install(dead=True)
    assert "Cannot connect" in docker_answers()
    with pytest.raises(LocalFailure, match="Cannot connect") as failure:
        choose_broker(tmp_path / "log", lambda _: None)
    assert failure.value.remedy


def test_no_docker_at_all_is_said(docker: FakeDocker) -> None:
    assert docker_answers() == "there is no docker command"


def test_the_password_travels_in_the_environment_alone(docker: FakeDocker, tmp_path: Path) -> None:
    docker.install()
    broker = DockerBroker("outhaul-x", tmp_path / "log", "top-secret", BrokerPorts(1, 2, 3, 4, 5))
    broker.launch()
    assert broker.alive()
    broker.stop()
    broker.remove_data()
    calls = docker.calls()
    started = next(call for call in calls if isinstance(call["arguments"], list) and call["arguments"][0] == "run")
    assert started["password"] == "top-secret"
    assert isinstance(started["arguments"], list)
    assert started["arguments"][-1] == IMAGE
    assert all("top-secret" not in json.dumps(call["arguments"]) for call in calls)
    verbs = [call["arguments"][0] for call in calls if isinstance(call["arguments"], list)]
    assert verbs == ["rm", "run", "inspect", "stop", "rm", "volume"]

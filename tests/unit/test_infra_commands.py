"""The commands beside the program: making secrets, and telling an existing server what it needs.

A stand-in for `pulumi` keeps what it is given, and its arguments; tests/cluster/test_pulumi_up.py uses the real one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from outhaul_infra import external, secrets
from outhaul_infra.passwords import PASSWORDS

ROOT = Path(__file__).parent.parent.parent
STAND_IN = """#!{python}
import json, pathlib, sys
here = pathlib.Path({folder!r})
arguments = sys.argv[1:]
with (here / "arguments").open("a") as log:
    log.write(json.dumps(arguments) + chr(10))
store = here / "store"
config = json.loads(store.read_text()) if store.exists() else {{}}
if arguments[1] == "set":
    config[arguments[3]] = {{"value": sys.stdin.read(), "secret": True}}
    store.write_text(json.dumps(config))
elif "--show-secrets" in arguments:
    print(json.dumps(config))
else:
    print(json.dumps({{key: {{"secret": True}} for key in config}}))
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds what the stand-in was given."""
    program = tmp_path / "pulumi"
    program.write_text(STAND_IN.format(python=sys.executable, folder=str(tmp_path)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def _stored(folder: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((folder / "store").read_text())
    return stored


def test_every_secret_is_made_once_and_goes_in_by_standard_input(
    stand_in: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert secrets.main(["--stack", "dev"]) == 0
    first = _stored(stand_in)
    assert set(first) == {f"outhaul:{key}" for key in PASSWORDS}
    values = {entry["value"] for entry in first.values()}
    assert len(values) == len(PASSWORDS)
    assert all(len(value) == 32 for value in values)
    shown = capsys.readouterr().out + (stand_in / "arguments").read_text()
    assert not any(value in shown for value in values)
    assert secrets.main(["--stack", "dev"]) == 0
    assert _stored(stand_in) == first
    assert "13 were there already" in capsys.readouterr().out


def test_one_is_renewed_and_the_others_stay(stand_in: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secrets.main([])
    first = _stored(stand_in)
    assert secrets.main(["--renew", "rabbitmqKedaPassword"]) == 0
    changed = {key for key, entry in _stored(stand_in).items() if entry != first[key]}
    assert changed == {"outhaul:rabbitmqKedaPassword"}
    assert "renewed rabbitmqKedaPassword" in capsys.readouterr().out


def test_a_key_that_is_none_is_refused_with_the_nearest(stand_in: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert secrets.main(["--renew", "rabbitmqKedaPasswort"]) == 2
    assert "did you mean rabbitmqKedaPassword?" in capsys.readouterr().err
    assert not (stand_in / "store").exists()


def test_the_cookie_is_not_renewed_behind_a_running_brokers_back(
    stand_in: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets.main([])
    first = _stored(stand_in)
    assert secrets.main(["--renew", "rabbitmqErlangCookie", "--renew", "rabbitmqKedaPassword"]) == 2
    assert _stored(stand_in) == first
    told = capsys.readouterr().err
    heading = re.search("“(.+)”", told)
    assert heading is not None
    assert f"## {heading[1]}\n" in (ROOT / "docs/deployment.md").read_text()


def test_without_pulumi_the_way_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert secrets.main([]) == 3
    assert external.main(["postgres"]) == 3
    assert capsys.readouterr().err.count("there is no pulumi on PATH; install it") == 2


def test_an_existing_server_is_told_only_once_the_passwords_are_there(
    stand_in: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert external.main(["postgres"]) == 2
    assert "python -m outhaul_infra.secrets" in capsys.readouterr().err
    secrets.main([])
    capsys.readouterr()
    assert external.main(["rabbitmq", "--virtual-host", "shop"]) == 0
    assert {each["vhost"] for each in json.loads(capsys.readouterr().out)["permissions"]} == {"shop"}


def test_the_script_for_an_existing_server_has_no_password_in_it(
    stand_in: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets.main([])
    capsys.readouterr()
    assert external.main(["postgres"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("\\set ON_ERROR_STOP on\n")
    assert not any(entry["value"] in script for entry in _stored(stand_in).values())


@pytest.mark.parametrize("module", ["secrets", "external", "settings_page"])
def test_each_is_a_command(module: str) -> None:
    arguments = [] if module == "settings_page" else ["--help"]
    ended = subprocess.run(
        [sys.executable, "-m", f"outhaul_infra.{module}", *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr

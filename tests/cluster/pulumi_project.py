"""The Pulumi project as a person has it after a clone, driven by the real command, its state in a folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from infra_graph import ROOT

STACK = "test"
SECONDS = 900
# What the program's own environment is made from, and the chart.
_PARTS = ("Pulumi.yaml", "pyproject.toml", "uv.lock", "sdk", "operator", "functions", "infra", "local", "helm")


class PulumiRefused(AssertionError):
    """The command ended with an error; the message is what it said."""


@dataclass(frozen=True)
class PulumiProject:
    """A copy of the repository's parts in ``folder``, with one stack."""

    folder: Path

    def prepare(self, written: dict[str, Any]) -> None:
        """Copy, configure, install, and make the secrets, all by the documented commands."""
        for part in _PARTS:
            source, target = ROOT / part, self.folder / part
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
        (self.folder / "state").mkdir()
        self.write(written)
        self.pulumi("stack", "init", STACK)
        # Where the provider is not on PATH, `up` fetches it.
        self.pulumi("install", "--no-plugins")
        self.command("outhaul_infra.secrets", "--stack", STACK)

    def write(self, written: dict[str, Any]) -> None:
        """The stack's settings; what is encrypted stays."""
        path = self.folder / f"Pulumi.{STACK}.yaml"
        there = yaml.safe_load(path.read_text()) if path.exists() else {}
        kept = {key: value for key, value in there.get("config", {}).items() if "secure" in str(value)}
        config = kept | {f"outhaul:{key}": value for key, value in written.items()}
        path.write_text(yaml.safe_dump(there | {"config": config}))

    def replace_program(self, text: str) -> None:
        """Another program in place of the project's own, with the same environment and settings."""
        (self.folder / "infra" / "__main__.py").write_text(text)

    def command(self, module: str, *arguments: str) -> str:
        """One of our own commands, in the environment that `pulumi install` made."""
        return self._run(str(self.folder / ".pv/bin/python"), "-m", module, *arguments)

    def pulumi(self, *arguments: str) -> str:
        """What it prints. Raises PulumiRefused."""
        return self._run("pulumi", *arguments, "--non-interactive")

    def up(self, *arguments: str) -> str:
        """Bring it up as the settings say."""
        return self.pulumi("up", "--yes", "--skip-preview", "--stack", STACK, *arguments)

    def plan(self, *arguments: str) -> dict[str, str]:
        """What an `up` would do, as URN's last part to operation; what stays the same is left out."""
        told = json.loads(self.pulumi("preview", "--json", "--stack", STACK, *arguments))
        return {
            step["urn"].rpartition("::")[2]: step["op"] for step in told["steps"] if step["op"] not in {"same", "read"}
        }

    def outputs(self) -> dict[str, str]:
        """The stack's outputs."""
        answer: dict[str, str] = json.loads(self.pulumi("stack", "output", "--json", "--stack", STACK))
        return answer

    def _run(self, *command: str) -> str:
        environment = os.environ | {
            "PULUMI_BACKEND_URL": f"file://{self.folder / 'state'}",
            "PULUMI_CONFIG_PASSPHRASE": "for tests",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
        }
        # The tests' own environment must not show through in the program's.
        environment.pop("VIRTUAL_ENV", None)
        ended = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=SECONDS, env=environment
        )
        if ended.returncode:
            raise PulumiRefused(f"{' '.join(command)}: {ended.stdout[-4000:]}\n{ended.stderr[-4000:]}")
        return ended.stdout

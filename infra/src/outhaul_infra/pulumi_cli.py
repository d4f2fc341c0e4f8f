"""The `pulumi` command, for the few things our own commands ask of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from outhaul.errors import OuthaulError
from outhaul_infra.setting_fields import PROJECT

_SECONDS = 120


class PulumiFailed(OuthaulError):
    """The command is missing, or ended with an error; the message is its own, or the way out."""


@dataclass(frozen=True, slots=True)
class PulumiCli:
    """For one stack; None is the one selected."""

    stack: str | None = None

    def configuration(self, *, show_secrets: bool = False) -> dict[str, str | None]:
        """Keys of our project without its name, to their values; None is a secret not shown. Raises PulumiFailed."""
        answer = json.loads(self._run("--json", *(["--show-secrets"] if show_secrets else [])))
        return {
            key.removeprefix(f"{PROJECT}:"): _text(entry) for key, entry in answer.items() if key.startswith(PROJECT)
        }

    def set_secret(self, key: str, value: str) -> None:
        """Write a secret, by standard input: arguments are for everybody on the machine to see. Raises PulumiFailed."""
        self._run("set", "--secret", f"{PROJECT}:{key}", stdin=value)

    def _run(self, *arguments: str, stdin: str = "") -> str:
        if shutil.which("pulumi") is None:
            raise PulumiFailed("there is no pulumi on PATH; install it: https://www.pulumi.com/docs/install")
        which: Sequence[str] = ["--stack", self.stack] if self.stack else []
        try:
            ended = subprocess.run(
                ["pulumi", "config", *arguments, *which, "--non-interactive"],
                input=stdin,
                capture_output=True,
                text=True,
                check=False,
                timeout=_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise PulumiFailed(f"pulumi config did not end within {_SECONDS} s") from error
        if ended.returncode:
            raise PulumiFailed(f"pulumi config: {ended.stderr.strip() or ended.stdout.strip()}")
        return ended.stdout


def _text(entry: Mapping[str, object]) -> str | None:
    value = entry.get("value")
    return None if value is None else str(value)

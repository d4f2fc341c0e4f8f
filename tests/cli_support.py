"""Running the command in tests: in this process for most, as a program where its exit code is the point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from click.testing import CliRunner, Result

from outhaul.cli.group import root


def outhaul(*arguments: str, **environ: str) -> Result:
    """Run the command with only these OUTHAUL_ variables; its own errors are in ``stderr``."""
    cleared = {name: None for name in os.environ if name.startswith("OUTHAUL_")}
    return CliRunner().invoke(root, list(arguments), env={**cleared, **environ})


def answer(*arguments: str, **environ: str) -> Any:
    """The command's JSON document, whatever its exit code."""
    done = outhaul(*arguments, "--output", "json", **environ)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def program(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a program of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OUTHAUL_")}
    command = [sys.executable, "-c", "from outhaul.cli import main; main()", *arguments]
    return subprocess.run(
        command,
        env={**kept, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )

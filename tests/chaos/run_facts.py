"""What a report needs to be judged by: the commit, the moment, the machine, the versions."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg

ROOT = Path(__file__).parents[2]
GIBIBYTE = 1024**3


def run_facts() -> dict[str, str]:
    """Of this run; the commit is "unknown" outside a checkout."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], check=False, capture_output=True, text=True, cwd=ROOT
    )
    total = psutil.virtual_memory().total / GIBIBYTE
    return {
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": commit.stdout.strip() or "unknown",
        "machine": f"{platform.platform()}, {os.cpu_count()} cores, {total:.0f} GiB",
        "Python": platform.python_version(),
    }


def postgres_version(dsn: str) -> str:
    """Such as 18.6. Raises psycopg.Error."""
    with psycopg.connect(dsn) as conn:
        number = conn.info.server_version
    return f"{number // 10000}.{number % 10000}"

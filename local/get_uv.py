# ruff: noqa: INP001, T201 - a script that stands alone, and whose output is the answer
"""Print the path of a usable `uv`, getting one into .outhaul/tools if there is none.

It runs before anything is installed, with whatever python3 the machine has, so it uses the standard library alone.
A fresh Debian has neither pip nor venv; then the wheel is taken from the package index and checked against the hash
the index gives.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

OLDEST = (0, 5)
REQUIREMENT = "uv>=0.5"
TOOLS = Path(__file__).resolve().parent.parent / ".outhaul" / "tools"
SIMPLE_API = "application/vnd.pypi.simple.v1+json"  # https://peps.python.org/pep-0691/


def usable(path: Path) -> bool:
    """Whether this uv runs and is new enough."""
    try:
        answer = subprocess.run([str(path), "--version"], check=False, capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    found = re.search(r"(\d+)\.(\d+)", answer.stdout.decode("utf-8", "replace"))
    return answer.returncode == 0 and found is not None and (int(found[1]), int(found[2])) >= OLDEST


def by_pip() -> Path:
    """With pip: into a folder of our own, so that the system's Python stays as it is (PEP 668)."""
    run(sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(TOOLS / "pip"), REQUIREMENT)
    return TOOLS / "pip" / "bin" / "uv"


def by_venv() -> Path:
    """With venv, which brings a pip of its own where ensurepip is there."""
    folder = TOOLS / "venv"
    run(sys.executable, "-m", "venv", str(folder))
    run(str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", REQUIREMENT)
    return folder / "bin" / "uv"


def by_wheel() -> Path:
    """With the standard library alone: the newest wheel for this machine, its hash checked."""
    index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple"
    page = index.rstrip("/") + "/uv/"
    files = json.loads(fetch(page, accept=SIMPLE_API))["files"]
    wheel = choose_wheel(files, platform.system(), platform.machine(), platform.libc_ver()[0])
    content = fetch(urllib.parse.urljoin(page, wheel["url"]))
    if hashlib.sha256(content).hexdigest() != wheel["hashes"]["sha256"]:
        raise RuntimeError("the wheel does not have the hash the index gives")
    target = TOOLS / "bin" / "uv"
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".data/scripts/uv"))
        target.write_bytes(archive.read(name))
    target.chmod(0o755)
    return target


def fetch(url: str, accept: str = "*/*") -> bytes:
    """The content behind an https URL."""
    if not url.startswith("https://"):
        raise RuntimeError(f"{url} is no https URL")
    request = urllib.request.Request(url, headers={"Accept": accept})  # noqa: S310 - https, checked above
    with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310 - as above
        return bytes(answer.read())


def choose_wheel(files: list[dict[str, Any]], system: str, machine: str, libc: str) -> dict[str, Any]:
    """The newest final release's wheel for this machine, of the files that the index lists."""
    if machine == "arm64" and system != "Darwin":
        machine = "aarch64"
    family = "macosx" if system == "Darwin" else "manylinux" if libc == "glibc" else "musllinux"
    fitting = []
    for file in files:
        found = re.fullmatch(r"uv-(\d+)\.(\d+)\.(\d+)-py3-none-(.+)\.whl", file["filename"])
        if found and not file.get("yanked") and family in found[4] and machine in found[4]:
            fitting.append(((int(found[1]), int(found[2]), int(found[3])), file))
    if not fitting:
        raise RuntimeError(f"the index has no wheel of uv for {system} on {machine}")
    return max(fitting, key=lambda pair: pair[0])[1]


def run(*command: str) -> None:
    """Run it quietly; RuntimeError with the end of what it said when it fails."""
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(done.stdout.decode("utf-8", "replace").strip()[-500:] or "failed")


def main() -> int:
    """Try one way after the other; print the path, or say what was tried."""
    on_path = shutil.which("uv")
    kept = [TOOLS / "bin" / "uv", TOOLS / "pip" / "bin" / "uv", TOOLS / "venv" / "bin" / "uv"]
    for path in [*([Path(on_path)] if on_path else []), *kept]:
        if usable(path):
            print(path)
            return 0
    TOOLS.mkdir(parents=True, exist_ok=True)
    troubles = []
    for way in (by_pip, by_venv, by_wheel):
        name = way.__name__.replace("_", " ")
        print(f"uv is missing; getting it into {TOOLS} ({name})", file=sys.stderr, flush=True)
        try:
            path = way()
        except Exception as error:  # noqa: BLE001 - the next way may work; all troubles are told if none does
            troubles.append(f"{name}: {error}")
            continue
        if usable(path):
            print(path)
            return 0
        troubles.append(f"{name}: {path} does not run")
    print("uv cannot be had:", *troubles, sep="\n  ", file=sys.stderr)
    print(
        "Install it as https://docs.astral.sh/uv/getting-started/installation/ says, then try again.", file=sys.stderr
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""Processes under load, and the load: wrk for saturation, a paced client for a rate."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from outhaul_local import ports

ORDER = {
    "customer": "ada",
    "lines": [
        {"sku": "A-1", "quantity": 2, "unit_price_cents": 1999},
        {"sku": "B-7", "quantity": 1, "unit_price_cents": 450},
    ],
}
_BODY = json.dumps(ORDER, separators=(",", ":"))


@contextmanager
def process(command: list[str], environment: Mapping[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A function as a process on a free port, ready; stopped with SIGTERM."""
    port = ports.free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OUTHAUL_")}
    running = subprocess.Popen(
        [sys.executable, "-P", *command],
        env={**kept, **environment, "OUTHAUL_HTTP_PORT": str(port), "OUTHAUL_LOG_LEVEL": "warning"},
    )
    try:
        deadline = time.monotonic() + 20
        while not _ready(port):
            if time.monotonic() > deadline or running.poll() is not None:
                raise SystemExit(f"{' '.join(command)} did not become ready")
            time.sleep(0.02)
        yield running, port
    finally:
        running.terminate()
        running.wait(30)


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def saturate(port: int, *, seconds: int, connections: int = 32) -> float:
    """Orders answered with 201 a second: wrk's count over the time it took by this machine's monotonic clock.

    wrk divides by the time of day, which may be set while it runs.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("this benchmark needs wrk (Debian: apt-get install wrk)")
    script = f"""
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{_BODY}'
"""
    with tempfile.TemporaryDirectory() as folder:
        lua = Path(folder) / "order.lua"
        lua.write_text(script)
        url = f"http://127.0.0.1:{port}/orders"
        began = time.monotonic()
        output = subprocess.run(
            [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(lua), url],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        took = time.monotonic() - began
    if "Non-2xx" in output:
        raise SystemExit(f"orders were refused:\n{output}")
    found = re.search(r"(\d+) requests in ", output)
    if found is None:
        raise SystemExit(f"wrk said nothing of what it counted:\n{output}")
    return int(found[1]) / took


async def paced(port: int, *, rate: int, seconds: int, connections: int = 16) -> int:
    """Place ``rate`` orders a second for so long; returns how many were taken."""
    request = (
        f"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(_BODY)}\r\n\r\n{_BODY}"
    ).encode()
    began = asyncio.get_running_loop().time()

    async def one(number: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        taken = 0
        for turn in range(number, rate * seconds, connections):
            await asyncio.sleep(max(0.0, began + turn / rate - asyncio.get_running_loop().time()))
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            taken += head.startswith(b"HTTP/1.1 201")
        writer.close()
        await writer.wait_closed()
        return taken

    return sum(await asyncio.gather(*(one(number) for number in range(connections))))


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its living children."""
    total = 0.0
    for each in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total

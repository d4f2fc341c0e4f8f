"""The operator under test: the chart's Deployment, or a process of this machine behind a proxy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import yaml

from cluster.api_proxy import ApiProxy
from cluster.kube import Kube
from outhaul_local import ports
from support import poll

CHART = Path(__file__).parents[2] / "helm" / "outhaul"
TAG = os.environ.get("OUTHAUL_TEST_TAG", "dev")
IMAGE = f"outhaul/operator:{TAG}"
RELEASE = "outhaul"
# Quick to start on a machine that does much else.
_OPERATOR_ALONE: dict[str, Any] = {
    "crds": {"install": False},
    "functions": {"enabled": False},
    "schema": {"enabled": False},
    "topology": {"enabled": False},
    "keda": {"enabled": False},
    "images": {name: {"tag": TAG} for name in ("order", "waybill", "operator")},
}
_START_SECONDS = 60


def install(kube: Kube, namespace: str, **values: Any) -> None:
    """The chart in that namespace, until it is ready: the operator alone unless ``values`` say otherwise."""
    helm(
        "upgrade",
        "--install",
        RELEASE,
        str(CHART),
        "--namespace",
        namespace,
        "--wait",
        "--timeout=60s",
        "--values=-",
        stdin=yaml.safe_dump(merged(_OPERATOR_ALONE, values)),
    )


def helm(*arguments: str, stdin: str = "") -> str:
    """What helm prints. Raises AssertionError with what it says when it fails."""
    ended = subprocess.run(["helm", *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=180)
    assert ended.returncode == 0, f"helm {' '.join(arguments)}: {ended.stderr.strip()}"
    return ended.stdout


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Values as helm puts them together: mappings by key, all else replaced."""
    both = dict(below)
    for key, value in above.items():
        old = both.get(key)
        both[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both


@dataclass(slots=True)
class LocalOperator:
    """``python -P -m outhaul_operator`` for one namespace, with the API server behind ``proxy``.

    Its Jobs run in the cluster, so databases and brokers must have the same addresses here and there.
    """

    namespace: str
    folder: Path
    proxy: ApiProxy
    settings: dict[str, str] = field(default_factory=dict)
    http_port: int = field(default_factory=ports.free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What it writes."""
        return self.folder / f"operator-{self.http_port}.log"

    def start(self) -> None:
        """Until it is ready. Raises AssertionError with its log when it ends or takes too long."""
        self.launch()
        poll(self._ready, seconds=_START_SECONDS, what="the operator to be ready")

    def launch(self) -> None:
        """Without waiting for anything."""
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "KUBECONFIG": str(self._kubeconfig()),
            "OUTHAUL_OPERATOR_NAMESPACES": self.namespace,
            "OUTHAUL_OPERATOR_IMAGE": IMAGE,
            "OUTHAUL_OPERATOR_JOB_SERVICE_ACCOUNT": "default",
            "OUTHAUL_HTTP_HOST": "127.0.0.1",
            "OUTHAUL_HTTP_PORT": str(self.http_port),
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.settings,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "outhaul_operator"],
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the operator ended: {self.log.read_text()[-3000:]}"
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.http_port}/readyz", timeout=5, trust_env=False)
        except httpx.TransportError:
            return False
        return answer.status_code == 200

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(30)

    def killed_at(self, method: str, path: str, when: Literal["before", "after"]) -> None:
        """Launch it, and wait until it is killed at the first such request."""
        blown = self.proxy.fuse(method, path, when, self._kill_at_once)
        self.launch()
        assert blown.wait(90), f"no {method} {path} within 90 s: {self.log.read_text()[-3000:]}"
        assert self.process is not None
        assert self.process.wait(30) == -signal.SIGKILL

    def _kill_at_once(self) -> None:
        assert self.process is not None
        self.process.kill()

    def _kubeconfig(self) -> Path:
        name = "test"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": f"http://127.0.0.1:{self.proxy.port}"}}],
            # The proxy has credentials of its own.
            "users": [{"name": name, "user": {"token": "of-no-use"}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": self.namespace}}],
            "current-context": name,
        }
        path = self.folder / f"kubeconfig-{self.http_port}"
        path.write_text(yaml.safe_dump(config))
        return path

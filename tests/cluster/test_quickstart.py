"""The quickstart on Kubernetes, typed as it stands on its page; but for the making of the cluster."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from pathlib import Path

import pytest

from cluster.kube import Kube
from cluster.operators import TAG
from outhaul_local import ports

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "kubernetes-quickstart.md"
NAMESPACE = "outhaul-demo"
SECONDS = 480
# An error ends it, and the port-forwards with it.
_PREAMBLE = "set -eu\ntrap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n"


def commands(name: str) -> str:
    """The page's shell blocks, in a namespace and on ports of this test's own."""
    text = PAGE.read_text(encoding="utf-8")
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))
    script = script.replace(NAMESPACE, name).replace("=dev", f"={TAG}")
    for port in ("8080", "8081"):
        own = str(ports.free_port())
        script = script.replace(f"127.0.0.1:{port}", f"127.0.0.1:{own}").replace(f" {port}:{port}", f" {own}:{port}")
    # The cluster is shared: its definitions are there already, and are nobody's to take over.
    return script.replace(
        "helm install outhaul helm/outhaul", "helm install outhaul helm/outhaul --set crds.install=false"
    )


@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.needs("helm", "kubectl", "curl")
def test_the_page_leads_from_nothing_to_a_resend_job(kube: Kube, crds: None, tmp_path: Path) -> None:
    name = f"harness-quickstart-{secrets.token_hex(3)}"
    own_config = tmp_path / "kubeconfig"
    shutil.copy(os.environ["KUBECONFIG"], own_config)
    try:
        ended = subprocess.run(
            ["bash", "-x", "-c", _PREAMBLE + commands(name)],
            cwd=ROOT,
            env={**os.environ, "KUBECONFIG": str(own_config)},
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        assert ended.returncode == 0, f"{ended.stdout[-6000:]}\n{ended.stderr[-6000:]}"
        assert "round 1: one Job for 5 stuck rows" in ended.stdout
        assert "round 1 sent 5 rows" in ended.stdout
    finally:
        kube.delete_soon("namespace", name)

"""`pulumi preview` of a stack that is not up yet: nothing secret of the cluster goes into it."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.kube import Kube, KubectlFailed
from cluster.pulumi_project import PulumiProject
from cluster.pulumi_stage import SMALL

pytestmark = pytest.mark.timeout(900)
RUN = secrets.token_hex(3)
WRITTEN: dict[str, Any] = SMALL | {"namespaces": {"app": f"infra-app-{RUN}", "data": f"infra-data-{RUN}"}}
READER = f"infra-reader-{RUN}"


@pytest.fixture
def readers_kubeconfig(kube: Kube, tmp_path: Path) -> Iterator[Path]:
    """By somebody who may see what is in the cluster, but no Secret, and may change nothing: Kubernetes' own `view`."""
    kube.kubectl("create", "clusterrolebinding", READER, "--clusterrole=view", f"--user={READER}")
    config = json.loads(kube.kubectl("config", "view", "--minify", "--raw", "--flatten", "--output=json"))
    config["users"][0]["user"]["as"] = READER
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    yield path
    kube.delete_soon("clusterrolebinding", READER)


def test_it_needs_no_right_to_read_a_secret(kube: Kube, tmp_path: Path, readers_kubeconfig: Path) -> None:
    if shutil.which("pulumi") is None:
        pytest.skip("there is no pulumi on PATH, so `pulumi preview` itself is not tried")
    with pytest.raises(KubectlFailed, match="secrets is forbidden"):
        kube.kubectl("get", "secrets", "--all-namespaces", f"--as={READER}")
    folder = tmp_path / "project"
    folder.mkdir()
    project = PulumiProject(folder)
    project.prepare(WRITTEN)
    there = project.plan()
    assert set(there.values()) == {"create"}
    assert {"outbox-orders", "inbox-waybills"} <= set(there)
    project.write(WRITTEN | {"cluster": {"kubeconfig": str(readers_kubeconfig)}})
    assert project.plan() == there

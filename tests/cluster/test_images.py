"""The images as they were built: who runs in them, what starts, what they say of themselves and what they hold."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from cluster.kube import Kube
from cluster.operators import TAG
from conftest import missing
from support import poll

MODULES = {"order": "outhaul_order", "waybill": "outhaul_waybill", "operator": "outhaul_operator"}
# Each says it in a document of its own shape, and buildah knows no template that makes JSON of it.
INSPECT: dict[str, tuple[tuple[str, ...], Callable[[Any], dict[str, Any]]]] = {
    "docker": (("image", "inspect"), lambda said: said[0]["Config"]),
    "podman": (("image", "inspect"), lambda said: said[0]["Config"]),
    "buildah": (("inspect", "--type=image"), lambda said: said["OCIv1"]["config"]),
}
# What runs, what is installed, and what the list of parts says is there.
LOOK = """
import importlib.metadata, json, os, platform, re
sbom = json.load(open("/opt/outhaul/sbom.cdx.json"))
plain = lambda name: re.sub("[-_.]+", "-", name).lower()
installed = {plain(d.name): d.version for d in importlib.metadata.distributions()}
parts = [(plain(c["name"]), c["version"], c.get("purl", "")) for c in sbom["components"]]
print(json.dumps({"uid": os.getuid(), "python": platform.python_version(), "installed": installed, "parts": parts}))
"""


@pytest.mark.parametrize("name", MODULES)
def test_it_says_what_it_is_and_starts_without_a_shell_and_without_root(name: str) -> None:
    config = inspected(f"outhaul/{name}:{TAG}")
    assert config["Entrypoint"] == ["python", "-P", "-m", MODULES[name]]
    assert config["User"] == "65532:65532"
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == f"outhaul/{name}"
    for told in ("description", "licenses", "version", "revision"):
        assert labels[f"org.opencontainers.image.{told}"]
    assert labels["dev.outhaul.sbom"] == "/opt/outhaul/sbom.cdx.json"
    assert not [each for each in config["Env"] if "INDEX" in each or "PASSWORD" in each]


def inspected(image: str) -> dict[str, Any]:
    """Its configuration, by whichever builder has it."""
    for program, (arguments, config) in INSPECT.items():
        if shutil.which(program) is None:
            continue
        ended = subprocess.run([program, *arguments, image], capture_output=True, text=True, check=False, timeout=60)
        if ended.returncode == 0:
            return config(json.loads(ended.stdout))
    missing(f"{image} in docker, podman or buildah")
    raise AssertionError


@pytest.mark.parametrize("name", MODULES)
def test_its_list_of_parts_names_all_that_is_in_it(kube: Kube, namespace: str, name: str) -> None:
    """The base's Debian packages, Python and pip as well as the project's own; and nothing that only tests need."""
    container = {
        "name": "look",
        "image": f"outhaul/{name}:{TAG}",
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", LOOK],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            # No user is named here: it is the image's own that must not be root.
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        },
    }
    kube.apply(pod, namespace=namespace)

    def ended() -> bool:
        found = kube.read("pods", namespace, name) or {}
        phase: str | None = found.get("status", {}).get("phase")
        assert phase != "Failed", kube.kubectl("logs", name, "--namespace", namespace)
        return phase == "Succeeded"

    poll(ended, seconds=90, what=f"an answer of {name}")
    seen = json.loads(kube.kubectl("logs", name, "--namespace", namespace))
    assert seen["uid"] == 65532
    parts = {(part, version) for part, version, _ in seen["parts"]}
    # The root of the list is described apart from its parts.
    own = {("outhaul-" + name, seen["installed"]["outhaul-" + name])}
    assert set(seen["installed"].items()) - own <= parts
    assert ("python", seen["python"]) in parts
    assert {"libc6", "openssl-provider-legacy"} & {
        part for part, _, purl in seen["parts"] if purl.startswith("pkg:deb")
    }
    assert not {"pytest", "mypy", "ruff"} & seen["installed"].keys()

"""What is put into an image's list of parts besides the project's own packages."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from outhaul_local.image_sbom import complete, debian_components


def test_what_the_base_brings_stands_beside_what_was_there(tmp_path: Path) -> None:
    sbom = tmp_path / "sbom.cdx.json"
    sbom.write_text(json.dumps({"bomFormat": "CycloneDX", "components": [{"name": "anyio"}]}))
    complete(sbom, ["libc6 2.41-12 amd64\n", "tzdata 2025b-4+deb13u1 all\n"])
    document = json.loads(sbom.read_text())
    assert document["bomFormat"] == "CycloneDX"
    assert [each["name"] for each in document["components"]] == ["anyio", "python", "libc6", "tzdata"]
    assert document["components"][1]["version"] == platform.python_version()
    # The form of https://github.com/package-url/purl-spec, where a plus is written %2B.
    assert document["components"][3]["purl"] == "pkg:deb/debian/tzdata@2025b-4%2Bdeb13u1?arch=all"


def test_another_list_than_dpkgs_ends_the_build() -> None:
    with pytest.raises(ValueError, match="unpack"):
        debian_components(["libc6"])

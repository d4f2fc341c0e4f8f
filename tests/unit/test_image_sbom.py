"""What is put into an image's list of parts besides the project's own packages."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from outhaul_local.image_sbom import base_components, complete


def test_what_the_base_brings_stands_beside_what_was_there(tmp_path: Path) -> None:
    sbom = tmp_path / "sbom.cdx.json"
    sbom.write_text(json.dumps({"bomFormat": "CycloneDX", "components": [{"name": "anyio"}]}))
    complete(sbom, ["libc6 2.41-12 amd64\n", "tzdata 2025b-4+deb13u1 all\n", "pip==25.1.1\n"])
    document = json.loads(sbom.read_text())
    assert document["bomFormat"] == "CycloneDX"
    assert [each["name"] for each in document["components"]] == ["anyio", "python", "libc6", "tzdata", "pip"]
    assert document["components"][1]["version"] == platform.python_version()
    # The form of https://github.com/package-url/purl-spec, where a plus is written %2B.
    assert document["components"][3]["purl"] == "pkg:deb/debian/tzdata@2025b-4%2Bdeb13u1?arch=all"
    assert document["components"][4]["purl"] == "pkg:pypi/pip@25.1.1"


@pytest.mark.parametrize("line", ["libc6", "", "pip 25.1.1", "pip==25==1", "libc6 2.41 amd64 more"])
def test_another_list_than_those_ends_the_build(line: str) -> None:
    with pytest.raises(ValueError, match="unpack"):
        base_components([line])

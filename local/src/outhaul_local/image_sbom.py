r"""Put what an image has of its base, Debian's packages, Python and Python's own, into its CycloneDX SBOM.

    { dpkg-query --show --showformat '${Package} ${Version} ${Architecture}\n'
      python -m pip list --format=freeze; } | python image_sbom.py sbom.cdx.json

Run while the image is built, by the base's own Python. A line that is of neither form ends it with an error.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote


def base_components(lines: Iterable[str]) -> list[dict[str, Any]]:
    """One component for each ``package version architecture`` and each ``package==version``.

    Raises ValueError for another line.
    """
    return [
        _of_python(*line.split("==")) if "==" in line else _of_debian(*line.split(" "))
        for line in map(str.strip, lines)
    ]


def _of_debian(*parts: str) -> dict[str, Any]:
    name, version, architecture = parts
    return _library(name, version, f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={architecture}")


def _of_python(*parts: str) -> dict[str, Any]:
    name, version = parts
    return _library(name, version, f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe='')}")


def _library(name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def python_component() -> dict[str, Any]:
    """The interpreter that runs this."""
    version = platform.python_version()
    purl = f"pkg:generic/python@{version}"
    return {"type": "application", "bom-ref": purl, "name": "python", "version": version, "purl": purl}


def complete(sbom: Path, lines: Iterable[str]) -> None:
    """Add them to the document in that file."""
    document = json.loads(sbom.read_text(encoding="utf-8"))
    document["components"] += [python_component(), *base_components(lines)]
    sbom.write_text(json.dumps(document, indent=1), encoding="utf-8")


if __name__ == "__main__":
    complete(Path(sys.argv[1]), sys.stdin)

r"""Put what an image has besides the project's own packages, Debian's and Python itself, into its CycloneDX SBOM.

    dpkg-query --show --showformat '${Package} ${Version} ${Architecture}\n' | python image_sbom.py sbom.cdx.json

Run while the image is built, by the base's own Python. A line that is not of that form ends it with an error.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote


def debian_components(lines: Iterable[str]) -> list[dict[str, Any]]:
    """One component for each ``package version architecture``. Raises ValueError for another line."""
    found = []
    for line in lines:
        name, version, architecture = line.split()
        purl = f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={architecture}"
        found.append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl})
    return found


def python_component() -> dict[str, Any]:
    """The interpreter that runs this."""
    version = platform.python_version()
    purl = f"pkg:generic/python@{version}"
    return {"type": "application", "bom-ref": purl, "name": "python", "version": version, "purl": purl}


def complete(sbom: Path, lines: Iterable[str]) -> None:
    """Add them to the document in that file."""
    document = json.loads(sbom.read_text(encoding="utf-8"))
    document["components"] += [python_component(), *debian_components(lines)]
    sbom.write_text(json.dumps(document, indent=1), encoding="utf-8")


if __name__ == "__main__":
    complete(Path(sys.argv[1]), sys.stdin)

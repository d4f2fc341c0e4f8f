"""``python benchmarks/image_size.py``: what each image weighs on its way to a node, its own layers beside its base's.

Layers are compressed as registries keep them, by gzip; the base's are those that the base image has too. Needs the
images (``make images``) and docker, podman or buildah.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

MEGABYTE = 1_000_000
CHUNK_BYTES = 1 << 20
SAVE = {
    "docker": ("save", "--output={file}", "{image}"),
    "podman": ("save", "--format=docker-archive", "--output={file}", "{image}"),
    "buildah": ("push", "--quiet", "{image}", "docker-archive:{file}"),
}


def saved(image: str, file: Path) -> None:
    """Write the image there, by whichever builder has it. Raises SystemExit where none has."""
    said = ""
    for program, arguments in SAVE.items():
        command = [program, *(each.format(file=file, image=image) for each in arguments)]
        try:
            ended = subprocess.run(command, check=False, capture_output=True, text=True)
        except FileNotFoundError:
            continue
        if ended.returncode == 0:
            return
        said += f"\n{program}: {ended.stderr.strip()}"
        file.unlink(missing_ok=True)
    raise SystemExit(f"{image} is in none of docker, podman and buildah; `make images` builds it{said}")


def compressed_bytes(layer: IO[bytes]) -> int:
    """Its size as gzip makes it at its usual level."""
    gzip = zlib.compressobj(6, wbits=31)
    size = 0
    while chunk := layer.read(CHUNK_BYTES):
        size += len(gzip.compress(chunk))
    return size + len(gzip.flush())


def layers(image: str, known: Mapping[str, int]) -> dict[str, int]:
    """Compressed bytes of each layer, by the digest of what is in it; those that are known are not compressed again."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "image.tar")
        saved(image, file)
        with tarfile.open(file) as archive:

            def part(name: str) -> IO[bytes]:
                found = archive.extractfile(name)
                assert found is not None, name
                return found

            [manifest] = json.load(part("manifest.json"))
            digests = json.load(part(manifest["Config"]))["rootfs"]["diff_ids"]
            return {
                digest: known[digest] if digest in known else compressed_bytes(part(name))
                for digest, name in zip(digests, manifest["Layers"], strict=True)
            }


def main() -> None:
    """One line an image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tag", default="dev")
    parser.add_argument("--base", default="python:3.13-slim", help="the image that they were built on")
    options = parser.parse_args()
    base = layers(options.base, {})
    for name in ("order", "waybill", "operator"):
        found = layers(f"outhaul/{name}:{options.tag}", base)
        own = sum(size for digest, size in found.items() if digest not in base)
        total = sum(found.values())
        print(f"{name}: own layers {own / MEGABYTE:.1f} MB, with the base {total / MEGABYTE:.1f} MB compressed")


if __name__ == "__main__":
    main()

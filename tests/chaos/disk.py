"""A file system of a few megabytes that can be filled and emptied: the real "no space left on device"."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from outhaul_local.identity import Identity

BLOCK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Disk:
    """``folder`` is its root, which belongs to the servers' user."""

    folder: Path

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> None:
        """Until not another byte fits."""
        block = b"\0" * BLOCK_BYTES
        with self._ballast.open("ab", buffering=0) as file:
            while block:
                try:
                    file.write(block)
                except OSError:
                    block = block[: len(block) // 2]

    def free(self) -> None:
        """Give all of that back."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, identity: Identity, *, megabytes: int) -> Iterator[Disk]:
    """Mounted at ``folder`` until the end of the block. PermissionError for whoever may not mount."""
    folder.mkdir()
    if os.geteuid() != 0:
        raise PermissionError("mounting a file system is root's")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    if mounted.returncode:
        raise PermissionError(mounted.stderr.strip())
    try:
        identity.own(folder)
        yield Disk(folder)
    finally:
        # Lazily: a server that was killed a moment ago may not have let go of its last file.
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=30)

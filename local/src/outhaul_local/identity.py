"""Who runs the servers. PostgreSQL refuses root, so root hands its servers to somebody without rights."""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict


class SpawnAs(TypedDict, total=False):
    """The keyword arguments of ``subprocess`` that change the child's user."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Identity:
    """The user a server runs as; ``uid`` is None for the user we already are."""

    name: str
    uid: int | None = None
    gid: int | None = None

    def spawn_as(self) -> SpawnAs:
        """Arguments for ``subprocess`` that start a child as this user."""
        if self.uid is None or self.gid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give ``path``, with all below it, to this user."""
        if self.uid is None or self.gid is None:
            return
        os.chown(path, self.uid, self.gid, follow_symlinks=False)
        for folder, names, files in os.walk(path):
            for name in (*names, *files):
                os.chown(Path(folder, name), self.uid, self.gid, follow_symlinks=False)

    def own_folder(self, folder: Path) -> None:
        """Give ``folder`` itself, not what is below it, to this user."""
        if self.uid is not None and self.gid is not None:
            os.chown(folder, self.uid, self.gid)

    def can_enter(self, folder: Path) -> bool:
        """Whether this user can reach into ``folder`` (every folder above it may be searched)."""
        if self.uid is None:
            return os.access(folder, os.X_OK)
        # Asked as the user: mode bits alone would miss ACLs and mount options.
        answer = subprocess.run(
            ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)],
            check=False,
            capture_output=True,
            cwd="/",
            timeout=10,
            **self.spawn_as(),
        )
        return answer.returncode == 0


def server_identity() -> Identity:
    """The user for servers: ourselves, or for root the user who called sudo, else ``nobody``."""
    if os.geteuid() != 0:
        return Identity(pwd.getpwuid(os.geteuid()).pw_name if _known(os.geteuid()) else str(os.geteuid()))
    sudo = os.environ.get("SUDO_UID", "")
    if sudo.isdigit() and int(sudo) != 0 and _known(int(sudo)):
        user = pwd.getpwuid(int(sudo))
    else:
        user = pwd.getpwnam("nobody")
    return Identity(user.pw_name, user.pw_uid, user.pw_gid)


def _known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:  # a container may run as a number without a name
        return False
    return True

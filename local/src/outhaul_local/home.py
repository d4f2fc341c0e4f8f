"""The folder local mode lives in (``.outhaul``), what lies where in it, and the lock over it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from outhaul_local.failure import LocalFailure
from outhaul_local.identity import Identity
from outhaul_local.waiting import TimedOut, wait_for

LOCK_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Home:
    """Local mode's own folder. Two with different folders share nothing."""

    folder: Path

    @classmethod
    def choose(cls, given: str | None = None) -> Home:
        """``given``, else ``OUTHAUL_HOME``, else ``.outhaul`` in the current folder."""
        return cls(Path(given or os.environ.get("OUTHAUL_HOME") or ".outhaul").absolute())

    @property
    def state_file(self) -> Path:
        """What runs, with ports, process ids and passwords (mode 0600)."""
        return self.folder / "state.json"

    @property
    def env_file(self) -> Path:
        """The settings to source into a shell (mode 0600)."""
        return self.folder / "env"

    @property
    def logs(self) -> Path:
        """Every process's log."""
        return self.folder / "log"

    def log(self, name: str) -> Path:
        """One process's log."""
        return self.logs / f"{name}.log"

    @property
    def digest(self) -> str:
        """Eight characters that tell this folder from others, for names shared with the whole machine."""
        return hashlib.sha256(str(self.folder).encode()).hexdigest()[:8]

    def make(self) -> None:
        """Make the folder and its logs. Others may pass through it (the servers' user must), not list it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o711)
            self.logs.mkdir(exist_ok=True)
        except OSError as error:
            raise LocalFailure(
                f"cannot write to {self.folder}: {error.strerror}",
                remedy="run as the user who owns the checkout, or set OUTHAUL_HOME to a folder of your own",
            ) from error

    def servers_folder(self, identity: Identity) -> Path:
        """Where the servers keep their data: here, if their user can come here, else in /var/tmp.

        RabbitMQ's start scripts do not survive white space in a path, so such a one is left too.
        """
        here = self.folder / "servers"
        here.mkdir(exist_ok=True)
        if identity.can_enter(here) and not re.search(r"\s", str(here)):
            identity.own_folder(here)
            return here
        here.rmdir()
        elsewhere = Path("/var/tmp") / f"outhaul-{os.geteuid()}-{self.digest}"  # noqa: S108 - owner checked below
        elsewhere.mkdir(mode=0o700, exist_ok=True)
        owner = elsewhere.lstat().st_uid
        # Anybody may make a folder of that name first; one that is not ours would hand him our data.
        if elsewhere.is_symlink() or owner not in {os.geteuid(), identity.uid}:
            raise LocalFailure(
                f"{elsewhere} belongs to user {owner}, not to us", remedy="remove it, or set OUTHAUL_HOME elsewhere"
            )
        identity.own_folder(elsewhere)
        return elsewhere

    @contextmanager
    def lock(self, *, seconds: float = LOCK_SECONDS, told: str = "") -> Iterator[None]:
        """Hold the folder for one command. Waits up to ``seconds`` for another; ``told`` is printed meanwhile."""
        with (self.folder / "lock").open("a+") as file:
            if not _try(file):
                if told:
                    print(told, flush=True)  # noqa: T201 - the one line a waiting person needs
                try:
                    wait_for(lambda: _try(file), seconds=seconds, what="the end of the other command")
                except TimedOut as late:
                    raise LocalFailure(
                        f"another command holds {self.folder} for more than {seconds:g} s",
                        remedy="wait for it, or end it with Ctrl-C",
                    ) from late
            yield

    def lock_is_free(self) -> bool:
        """Whether no command holds the folder now."""
        with (self.folder / "lock").open("a+") as file:
            return _try(file)


def _try(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_private(path: Path, text: str) -> None:
    """Write a file that only we can read, whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)

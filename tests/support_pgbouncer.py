"""A real pgbouncer in transaction mode before a test's database."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from outhaul_local import ports
from outhaul_local.identity import server_identity
from support import poll

SERVER_CONNECTIONS = 3


@contextmanager
def pooled(direct_dsn: str, servers_folder: Path) -> Iterator[str]:
    """The database through a pgbouncer with fewer server connections than there are clients."""
    binary = shutil.which("pgbouncer", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"]))
    assert binary is not None
    parts, port, identity = urlsplit(direct_dsn), ports.free_port(), server_identity()
    folder = servers_folder / f"pgbouncer-{port}"
    folder.mkdir()
    who = {"user": parts.username, "password": parts.password}
    login = " ".join(f"{name}='{unquote(text).replace(chr(39), chr(39) * 2)}'" for name, text in who.items() if text)
    # auth_type any takes any client, and must be told whom to be towards the server.
    (folder / "pgbouncer.ini").write_text(f"""
[databases]
{parts.path[1:]} = host={parts.hostname} port={parts.port} {login}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {SERVER_CONNECTIONS}
server_round_robin = 1
""")
    identity.own(folder)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [binary, str(folder / "pgbouncer.ini")], stdout=log, stderr=log, cwd=folder, **identity.spawn_as()
        )
    try:
        poll(lambda: process.poll() is not None or ports.is_listening(port), what="pgbouncer listening")
        assert process.poll() is None, (folder / "log").read_text()
        yield parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}").geturl()
    finally:
        process.terminate()
        process.wait(timeout=10)

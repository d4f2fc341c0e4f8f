"""A waybill service behind HTTP, as it is often built: it makes a waybill when it is asked to, and answers.

It can be told to answer too late, which is what an overloaded service or a lost packet looks like to the caller.
"""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection

import psycopg

from shop import workers
from shop.orders import INSERT_WAYBILL

LATE_SECONDS = 0.75


@contextmanager
def running(dsn: str) -> Iterator[str]:
    """The service in a process of its own for the length of the block; yields its URL."""
    receive, tell = multiprocessing.Pipe(duplex=False)
    process = workers.start(_serve, dsn, tell)
    try:
        if not receive.poll(30):
            raise RuntimeError("the waybill service did not start within 30 s")
        yield f"http://127.0.0.1:{receive.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(dsn: str, tell: Connection) -> None:
    class Handler(_WaybillHandler):
        database = dsn

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    tell.send(server.server_port)
    server.serve_forever()


class _WaybillHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # so that a caller keeps its connection
    disable_nagle_algorithm = True
    database: str

    def setup(self) -> None:
        super().setup()
        self.waybills = psycopg.connect(self.database, autocommit=True)

    def finish(self) -> None:
        self.waybills.close()
        with suppress(OSError):  # the caller has hung up
            super().finish()

    def do_POST(self) -> None:
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.waybills.execute(INSERT_WAYBILL, (order["order_id"], order["customer"]))  # committed: autocommit
        if self.headers.get("X-Fault") == "late":
            threading.Event().wait(LATE_SECONDS)
        with suppress(OSError):  # the caller has hung up
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in http.server
        """Say nothing."""

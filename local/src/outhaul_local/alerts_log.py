"""Where alerts go on one machine: a webhook on loopback that appends each notification to ``alerts.jsonl``."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from outhaul_local import ports
from outhaul_local.processes import rotate

LONGEST_BODY_BYTES = 1_000_000


def serve_alerts(port: int, file: Path) -> ThreadingHTTPServer:
    """Listen in a thread of its own. Raises ``OSError`` when the port is taken."""
    writing = threading.Lock()

    class Webhook(BaseHTTPRequestHandler):
        timeout = 10

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdigit() or int(length) > LONGEST_BODY_BYTES:
                self._answer(413)
                return
            try:
                notification = json.loads(self.rfile.read(int(length)))
            except ValueError:
                self._answer(400)
                return
            line = json.dumps({"at": datetime.now(UTC).isoformat(), "notification": notification})
            with writing:
                rotate(file)
                with file.open("a") as output:
                    output.write(line + "\n")
            self._answer(204)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """Say nothing: the file is the log."""

    server = ThreadingHTTPServer((ports.LOOPBACK, port), Webhook)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="alerts", daemon=True).start()
    return server

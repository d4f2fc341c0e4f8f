"""What goes wrong in local mode, told with the way out and the log that matters."""

from __future__ import annotations

from pathlib import Path


class LocalFailure(Exception):
    """A step of local mode failed. ``remedy`` says what to do, ``log`` is the file whose tail tells why."""

    def __init__(self, message: str, *, remedy: str = "", log: Path | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy
        self.log = log

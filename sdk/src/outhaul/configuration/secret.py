"""A password as text or as a file that may be rotated under a running process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from outhaul.errors import ConfigurationError

PASSWORD_FILE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A password given as text, or a file that holds it; the file wins and is read anew each time."""

    text: str | None = field(default=None, repr=False)
    file: str | None = None

    def read(self, *, setting: str) -> str | None:
        """The password now. Raises ConfigurationError for a file missing, unreadable, empty or huge."""
        if self.file is None:
            return self.text
        name = f"{setting} password_file"
        try:
            with Path(self.file).open("rb") as stream:
                content = stream.read(PASSWORD_FILE_BYTES + 1)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise ConfigurationError(name, self.file, f"cannot be read: {why}; check path and rights") from error
        try:
            password = content.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            # The cause would carry the bytes of the password.
            raise ConfigurationError(name, self.file, "must hold UTF-8 text") from None
        if not password or len(content) > PASSWORD_FILE_BYTES:
            raise ConfigurationError(
                name, self.file, f"must hold a password and nothing else, 1 to {PASSWORD_FILE_BYTES} bytes"
            )
        return password

"""TLS for the broker and its management API: which authority to trust, which certificate to show.

A context is built anew for each connection, so that a rotated certificate is used without a restart.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from outhaul.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Paths of PEM files. The peer is always verified, without ``ca_file`` by the system's authorities.

    ``cert_file`` and ``key_file`` are the client's own certificate (mTLS); the key may stand in the
    certificate's file. ``server_name`` is verified in place of the host connected to (a tunnel, a port-forward).
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None

    def context(self, *, setting: str) -> ssl.SSLContext:
        """A client context verifying certificate and host name. Raises ConfigurationError for a bad file."""
        if self.key_file and not self.cert_file:
            raise ConfigurationError(
                f"{setting} key_file", self.key_file, "a key without a certificate; set cert_file too"
            )
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"{setting} ca_file", self.ca_file, f"must be a readable PEM file of authorities: {error}"
            ) from error
        if self.cert_file:
            try:
                # The callback keeps OpenSSL from asking for a passphrase on the terminal and hanging there.
                context.load_cert_chain(self.cert_file, self.key_file, password=_no_passphrase)
            except (OSError, ValueError) as error:
                raise ConfigurationError(
                    f"{setting} cert_file",
                    f"{self.cert_file}, {self.key_file or 'key in the same file'}",
                    f"must be a readable PEM certificate and its key without a passphrase: {error}",
                ) from error
        return context


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted")

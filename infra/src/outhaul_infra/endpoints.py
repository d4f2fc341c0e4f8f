"""Where the broker and the databases are, whoever made them, and the URLs that lead an identity there."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from outhaul_infra.names import broker_user


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerEndpoint:
    """``management_url`` has no credentials in it."""

    host: str
    port: int
    management_url: str
    virtual_host: str
    tls: bool

    def amqp_url(self, identity: str, password: str) -> str:
        """For one of our users."""
        scheme, user = "amqps" if self.tls else "amqp", broker_user(identity)
        vhost = quote(self.virtual_host, safe="")
        return f"{scheme}://{user}:{quote(password, safe='')}@{self.host}:{self.port}/{vhost}"

    def management_url_of(self, identity: str, password: str) -> str:
        """For one of our users."""
        scheme, _, rest = self.management_url.partition("://")
        return f"{scheme}://{broker_user(identity)}:{quote(password, safe='')}@{rest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseEndpoint:
    """One server that holds both databases."""

    host: str
    port: int
    tls: bool

    def url(self, role: str, password: str, database: str) -> str:
        """For one of our roles. With TLS an unencrypted connection is refused before the password is sent."""
        ending = "?sslmode=verify-full" if self.tls else ""
        return f"postgresql://{role}:{quote(password, safe='')}@{self.host}:{self.port}/{database}{ending}"

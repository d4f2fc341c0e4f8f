"""TLS, client certificates and rotated passwords against a real RabbitMQ that demands them."""

import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pika
import pytest
import trustme

from outhaul.broker_admin.management import Management
from outhaul.broker_admin.topology_apply import apply, check_passive
from outhaul.errors import BrokerUnreachable, ConfigurationError
from outhaul.settings import BrokerSettings, ManagementSettings
from outhaul.topology import consumer_topology
from outhaul_local import ports, rabbitmq
from outhaul_local.rabbitmq import BrokerPorts, RabbitServer, find_binary
from outhaul_local.tether import Tether

TOPOLOGY = consumer_topology("shop.waybill", [("shop.events", "order.created")])
NAME = "rabbit.test"


@dataclass(slots=True)
class TlsServer(RabbitServer):
    """A node that speaks AMQP and HTTP over TLS as well, and asks every AMQP client for its certificate."""

    amqps: int = 0
    https: int = 0

    def _configuration(self) -> str:
        files = {"cacertfile": "ca.pem", "certfile": "server.pem", "keyfile": "server.key"}
        return RabbitServer._configuration(self) + "\n".join(
            [
                f"listeners.ssl.1 = {ports.LOOPBACK}:{self.amqps}",
                f"management.ssl.ip = {ports.LOOPBACK}",
                f"management.ssl.port = {self.https}",
                *(f"ssl_options.{name} = {self.folder / file}" for name, file in files.items()),
                *(f"management.ssl.{name} = {self.folder / file}" for name, file in files.items()),
                "ssl_options.verify = verify_peer",
                "ssl_options.fail_if_no_peer_cert = true",
                "ssl_cert_login_from = common_name",
                "auth_mechanisms.1 = PLAIN",
                "auth_mechanisms.2 = EXTERNAL",
                "",
            ]
        )


@dataclass(frozen=True)
class Secured:
    """The running node and what a client needs."""

    server: TlsServer
    folder: Path

    def amqps(self, **query: str) -> str:
        given = {"ca_file": str(self.folder / "ca.pem"), "cert_file": str(self.folder / "client.pem"), **query}
        kept = {name: value for name, value in given.items() if value}
        host = f"{ports.LOOPBACK}:{self.server.amqps}"
        return f"amqps://{self.server.user}:{self.server.password}@{host}/%2F?{urlencode(kept)}"

    def https(self, **query: str) -> str:
        query = {"ca_file": str(self.folder / "ca.pem"), **query}
        host = f"{ports.LOOPBACK}:{self.server.https}"
        return f"https://{self.server.user}:{self.server.password}@{host}?{urlencode(query)}"

    def api(self, method: str, path: str, body: dict[str, Any]) -> None:
        url = f"{self.server.management_url()}/api/{path}"
        httpx.request(method, url, json=body, timeout=30, trust_env=False).raise_for_status()


@pytest.fixture(scope="module")
def secured(servers_folder: Path, tether: Tether) -> Iterator[Secured]:
    binary = find_binary(None)
    if binary is None:
        from conftest import missing

        missing("rabbitmq-server")
        raise AssertionError("unreachable")
    folder = servers_folder / "rabbitmq-tls"
    folder.mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate = authority.issue_cert(ports.LOOPBACK, NAME)
    certificate.cert_chain_pems[0].write_to_path(folder / "server.pem")
    certificate.private_key_pem.write_to_path(folder / "server.key")
    authority.issue_cert("shop@example", common_name="shop").private_key_and_cert_chain_pem.write_to_path(
        folder / "client.pem"
    )
    trustme.CA().cert_pem.write_to_path(folder / "stranger.pem")
    amqps, https = ports.free_ports(2)
    server = TlsServer(
        binary=binary,
        folder=folder,
        log=servers_folder / "rabbitmq-tls.log",
        node=f"outhaul-tls-{secrets.token_hex(4)}",
        password=secrets.token_hex(16),
        ports=BrokerPorts.choose(),
        amqps=amqps,
        https=https,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rabbitmq, "PLUGINS", ("rabbitmq_management", "rabbitmq_auth_mechanism_ssl"))
        server.launch()
    if server.process is not None:
        tether.hold(server.process, epmd_port=server.ports.epmd)
    server.await_ready()
    yield Secured(server, folder)
    server.stop(keep_data=False)


def user_seen_by_broker(settings: BrokerSettings) -> str:
    """Connect, and use a queue: only then does a login count."""
    with closing(pika.BlockingConnection(settings.parameters(connection_name="test"))) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        assert queue.startswith("amq.gen")
        return str(connection._impl.params.credentials.TYPE)


def test_a_client_with_its_certificate_is_let_in(secured: Secured) -> None:
    assert user_seen_by_broker(BrokerSettings.parse(secured.amqps())) == "PLAIN"
    assert user_seen_by_broker(BrokerSettings.parse(secured.amqps(server_name=NAME))) == "PLAIN"


def test_the_certificate_alone_can_prove_the_user(secured: Secured) -> None:
    secured.api("PUT", "users/shop", {"password_hash": "", "tags": ""})
    secured.api("PUT", "permissions/%2F/shop", {"configure": ".*", "write": ".*", "read": ".*"})
    url = secured.amqps(auth_mechanism="external").replace(secured.server.password, "unused")
    assert user_seen_by_broker(BrokerSettings.parse(url)) == "EXTERNAL"


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ({"cert_file": ""}, "."),
        ({"ca_file": ""}, "certificate refused"),
        ({"ca_file": "stranger.pem"}, "certificate refused"),
        ({"server_name": "another.test"}, "certificate refused"),
    ],
)
def test_a_broker_or_client_that_cannot_prove_itself_is_refused(
    query: dict[str, str], why: str, secured: Secured
) -> None:
    if query.get("ca_file"):
        query = {"ca_file": str(secured.folder / query["ca_file"])}
    with pytest.raises(BrokerUnreachable, match=why):
        check_passive(TOPOLOGY, secured.amqps(**query))


def test_plain_text_to_a_tls_port_is_refused(secured: Secured) -> None:
    with pytest.raises(BrokerUnreachable):
        check_passive(TOPOLOGY, f"amqp://u:p@{ports.LOOPBACK}:{secured.server.amqps}/%2F")
    with pytest.raises(BrokerUnreachable, match="TLS failed"):
        check_passive(TOPOLOGY, f"amqps://u:p@{ports.LOOPBACK}:{secured.server.ports.amqp}/%2F")


def test_the_topology_is_applied_over_tls(secured: Secured) -> None:
    assert apply(TOPOLOGY, secured.amqps(), secured.https()).changes
    assert check_passive(TOPOLOGY, secured.amqps()) == []


def test_a_management_api_that_cannot_prove_itself_is_refused(secured: Secured) -> None:
    stranger = secured.https(ca_file=str(secured.folder / "stranger.pem"))
    with pytest.raises(BrokerUnreachable, match="certificate refused"):
        Management(stranger, virtual_host="/").version()


def test_a_rotated_password_is_used_without_a_restart(secured: Secured, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first")
    secured.api("PUT", "users/rotating", {"password": "first", "tags": "management"})
    secured.api("PUT", "permissions/%2F/rotating", {"configure": ".*", "write": ".*", "read": ".*"})
    broker = BrokerSettings.parse(
        f"amqp://rotating@{ports.LOOPBACK}:{secured.server.ports.amqp}/%2F", password_file=str(file)
    )
    management = ManagementSettings.parse(
        f"http://rotating@{ports.LOOPBACK}:{secured.server.ports.management}", password_file=str(file)
    )
    user_seen_by_broker(broker)
    Management(management, virtual_host="/").version()

    secured.api("PUT", "users/rotating", {"password": "second", "tags": "management"})
    with pytest.raises(BrokerUnreachable, match="login refused"):
        Management(management, virtual_host="/").version()
    file.write_text("second\n")
    user_seen_by_broker(broker)
    Management(management, virtual_host="/").version()

    file.unlink()
    with pytest.raises(ConfigurationError, match="amqp_url password_file"):
        broker.parameters(connection_name="test")

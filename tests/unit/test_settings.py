"""Settings: what is taken, what is refused, and that no password is ever shown."""

import datetime as dt
import ssl
import traceback
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from outhaul.errors import ConfigurationError
from outhaul.settings import (
    BrokerSettings,
    DatabaseSettings,
    ManagementSettings,
    is_loopback_host,
    require_loopback,
)

SECRET = "hunter2-geheim"
Settings = BrokerSettings | ManagementSettings | DatabaseSettings
PARSERS: dict[str, Callable[..., Settings]] = {
    "amqp": BrokerSettings.parse,
    "amqps": BrokerSettings.parse,
    "http": ManagementSettings.parse,
    "postgresql": DatabaseSettings.parse,
}


def shown(url: str) -> str:
    """Everything a person may see of settings that were taken or refused."""
    parse = PARSERS[url.partition("://")[0] if "://" in url else "postgresql"]
    try:
        parsed = parse(url)
    except ConfigurationError as error:
        return "".join(traceback.format_exception(error))
    return f"{parsed!r} {parsed} {parsed.address}"


def test_a_broker_url_is_taken_apart() -> None:
    broker = BrokerSettings.parse(
        f"amqp://shop:{SECRET}@rabbit.example:5673/orders%2Feu?heartbeat=5s&blocked_timeout=2m"
    )

    assert (broker.host, broker.port, broker.virtual_host, broker.user) == ("rabbit.example", 5673, "orders/eu", "shop")
    assert (broker.heartbeat_seconds, broker.blocked_timeout_seconds, broker.tls) == (5, 120.0, None)
    assert broker.address == "rabbit.example:5673/orders/eu"


def test_the_broker_is_told_what_the_url_says() -> None:
    parameters = BrokerSettings.parse("amqp://a:b%2Fc@[::1]/%2F?connect_timeout=3s").parameters(connection_name="me")

    assert (parameters.host, parameters.port, parameters.virtual_host) == ("::1", 5672, "/")
    assert (parameters.credentials.username, parameters.credentials.password) == ("a", "b/c")
    assert (parameters.socket_timeout, parameters.blocked_connection_timeout, parameters.heartbeat) == (3.0, 60.0, 10)
    assert parameters.client_properties["connection_name"] == "me"


def test_settings_already_parsed_pass_through() -> None:
    broker = BrokerSettings.parse("amqp://h/v")
    assert BrokerSettings.parse(broker) is broker
    assert (broker.user, broker.secret.read(setting="x")) == ("guest", "guest")


@pytest.mark.parametrize(
    "url", ["amqp://h", "amqp://h:5672", "amqp://h:5672/", "amqp://h/?heartbeat=5s", "amqp://h/%2F"]
)
def test_a_broker_url_without_a_virtual_host_means_the_default_one(url: str) -> None:
    assert BrokerSettings.parse(url).virtual_host == "/"


@pytest.mark.parametrize(
    ("url", "way_out"),
    [
        ("", "is missing; write amqp://"),
        ("localhost:5672", "must start with amqp"),
        ("http://localhost/", "must start with amqp"),
        ("amqp://", "names no host"),
        ("amqp://:5672/x", "names no host"),
        ("amqp://[::1/x", "is no URL"),
        ("amqp://localhost:abc/x", "port must be a number"),
        ("amqp://localhost:0/x", "port must be a number"),
        ("amqp://localhost:70000/x", "port must be a number"),
        ("amqp://localhost:5672/a/b", "virtual host"),
        ("amqp://user@localhost/x", "no password"),
        ("amqp://local host/x", "space or control character"),
        ("amqp://localhost/x\n", "space or control character"),
        ("amqp://localhost/x?hartbeat=5s", "did you mean heartbeat"),
        ("amqp://localhost/x?heartbeat=5", "write a number with its unit"),
        ("amqp://localhost/x?heartbeat=2h", "between 1s and 1h"),
        ("amqp://localhost/x?heartbeat", "name=value"),
        ("amqp://localhost/x?heartbeat=", "is empty"),
        ("amqp://localhost/x?ca_file=/ca.pem", "needs TLS"),
        ("amqps://localhost/x?ca_file=/missing/ca.pem", "readable PEM file"),
        ("amqps://localhost/x?key_file=/missing/key.pem", "set cert_file too"),
        ("amqp://localhost/x?auth_mechanism=external", "with amqps:// and a cert_file"),
        ("amqp://localhost/x?auth_mechanism=gssapi", "write plain, or external"),
    ],
)
def test_a_broker_url_that_cannot_be_used_is_refused_with_the_way_out(url: str, way_out: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        BrokerSettings.parse(url, setting="OUTHAUL_AMQP_URL")
    assert str(caught.value).startswith("OUTHAUL_AMQP_URL")
    assert way_out in str(caught.value)


@pytest.mark.parametrize("password", ["p/w", "p#w", "p@w/x", "12/3", "p?w=1", "p w", "p:w", "%zz/", "[x", "p\tw"])
@pytest.mark.parametrize("scheme", ["amqp", "http", "postgresql"])
def test_a_password_left_unescaped_is_never_shown(scheme: str, password: str) -> None:
    assert SECRET not in shown(f"{scheme}://user:{password}{SECRET}@host:5672/vhost")


@settings(deadline=None, max_examples=50)  # each builds a TLS context, which takes long on a busy machine
@given(st.text(max_size=30).map(lambda text: text + SECRET))
def test_no_password_of_any_text_is_shown(password: str) -> None:
    assert SECRET not in shown(f"amqp://u:{password}@h/v")
    assert SECRET not in shown(f"amqps://u:{quote(password, safe='', errors='replace')}@h/v")


def test_a_password_whose_host_was_forgotten_is_not_shown_as_its_port() -> None:
    assert SECRET not in shown(f"amqp://user:{SECRET}")
    assert SECRET not in shown(f"http://user:{SECRET}/")


@pytest.mark.parametrize(
    "dsn",
    [
        f"nonsense {SECRET}",
        f"host=x password={SECRET} nonsense",
        f"postgresql://u:{SECRET}@h/db?sslmod=require",
        f"postgresql://u:{SECRET}@h:99999/db",
        f"postgresql://u:{SECRET}/x@h/db",
        f"postgresql://u:p@h/db?{SECRET}",
        f"host=h port=x password='{SECRET}'",
    ],
)
def test_a_dsn_that_cannot_be_used_is_refused_without_its_password(dsn: str) -> None:
    assert "ConfigurationError" in shown(dsn)
    assert SECRET not in shown(dsn)


def test_a_missing_dsn_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigurationError, match=r"OUTHAUL_X=''.*postgresql://user:password@host"):
        DatabaseSettings.parse(" ", setting="OUTHAUL_X")


def test_an_unknown_dsn_option_is_named() -> None:
    with pytest.raises(ConfigurationError, match="has no option 'sslmod'"):
        DatabaseSettings.parse("postgresql://u:p@h/db?sslmod=require")


def test_libpq_options_pass_through_and_a_dead_peer_is_bounded() -> None:
    conninfo = DatabaseSettings.parse("postgresql://u:p@h/db?sslmode=verify-full&tcp_user_timeout=9").conninfo()

    assert {"sslmode=verify-full", "tcp_user_timeout=9", "connect_timeout=10", "password=p"} <= set(conninfo.split())


@pytest.mark.parametrize("url", ["amqp://u:old@h/v", "http://u:old@h", "postgresql://u:old@h/d"])
def test_a_password_file_wins_and_is_read_again_each_time(url: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    parsed = PARSERS[url.partition("://")[0]](url, password_file=str(file))
    assert parsed.secret.read(setting="x") == "first"

    file.write_text("second")

    assert parsed.secret.read(setting="x") == "second"
    match parsed:
        case BrokerSettings():
            assert parsed.parameters(connection_name="c").credentials.password == "second"
        case DatabaseSettings():
            assert "password=second" in parsed.conninfo()
        case ManagementSettings():
            pass


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe", b"x" * 5000])
def test_a_password_file_that_holds_no_password_is_refused(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"amqp_url password_file='.*': (cannot be read|must hold)"):
        BrokerSettings.parse(f"amqp://u@h/v?password_file={file}")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        BrokerSettings.parse(f"amqp://u@h/v?password_file={tmp_path}")


def test_a_client_certificate_can_prove_the_user(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("client@example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")

    parameters = BrokerSettings.parse(
        f"amqps://client@h/v?auth_mechanism=external&server_name=rabbit.example&cert_file={tmp_path / 'client.pem'}",
        ca_file=str(tmp_path / "ca.pem"),
    ).parameters(connection_name="c")

    assert parameters.port == 5671
    assert parameters.credentials.TYPE == "EXTERNAL"
    assert parameters.ssl_options.server_hostname == "rabbit.example"
    assert parameters.ssl_options.context.verify_mode is ssl.CERT_REQUIRED
    assert parameters.ssl_options.context.check_hostname


def test_an_encrypted_key_is_refused_without_asking_on_the_terminal(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    authority = trustme.CA()
    certificate = authority.issue_cert("client@example", not_after=dt.datetime(2099, 1, 1, tzinfo=dt.UTC))
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    with pytest.raises(ConfigurationError, match="without a passphrase"):
        BrokerSettings.parse(
            "amqps://u:p@h/v", cert_file=str(tmp_path / "client.pem"), key_file=str(tmp_path / "key.pem")
        )


@pytest.mark.parametrize(
    ("url", "base_url"),
    [
        ("http://a:b@h", "http://h:15672"),
        ("https://a:b@h", "https://h:15671"),
        ("http://h:80/rabbit/", "http://h:80/rabbit"),
        ("http://[::1]:1/api", "http://[::1]:1"),
    ],
)
def test_a_management_url_becomes_a_base(url: str, base_url: str) -> None:
    assert ManagementSettings.parse(url).base_url == base_url


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("/run/postgresql", True),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("", False),
    ],
)
def test_loopback_is_told_by_spelling(host: str, loopback: bool) -> None:
    assert is_loopback_host(host) is loopback


def test_a_database_is_on_loopback_only_if_every_host_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGHOST", raising=False)
    monkeypatch.delenv("PGHOSTADDR", raising=False)
    assert DatabaseSettings.parse("dbname=x").is_loopback
    assert DatabaseSettings.parse("host=127.0.0.1,/tmp dbname=x").is_loopback
    assert not DatabaseSettings.parse("host=127.0.0.1,db.example dbname=x").is_loopback
    assert not DatabaseSettings.parse("host=localhost hostaddr=10.0.0.1").is_loopback
    assert not DatabaseSettings.parse("service=production").is_loopback
    monkeypatch.setenv("PGHOST", "db.example")
    assert not DatabaseSettings.parse("dbname=x").is_loopback


def test_a_part_elsewhere_is_refused_unless_a_flag_allows_it() -> None:
    broker = BrokerSettings.parse("amqp://u:p@broker.example/v", setting="OUTHAUL_AMQP_URL")
    with pytest.raises(ConfigurationError, match=r"OUTHAUL_AMQP_URL='broker.example:5672/v'.*--anywhere"):
        require_loopback(broker, allowed=False, flag="--anywhere")
    require_loopback(broker, allowed=True, flag="--anywhere")
    require_loopback(BrokerSettings.parse("amqp://localhost/v"), allowed=False, flag="--anywhere")

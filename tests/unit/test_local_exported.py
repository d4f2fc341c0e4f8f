from pathlib import Path

import pytest

from outhaul.errors import ConfigurationError
from outhaul_local.exported import guess_management_url, issued, read_exported, remember_issued
from outhaul_local.home import Home

AMQP = "OUTHAUL_AMQP_URL"
ORDER = "OUTHAUL_ORDER_DATABASE_URL"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_nothing_exported_means_all_is_our_own(home: Home) -> None:
    found = read_exported({}, home, allow_remote=False)
    assert (found.amqp_url, found.databases) == (None, {})


@pytest.mark.parametrize("name", [AMQP, "OUTHAUL_MANAGEMENT_URL", ORDER, "OUTHAUL_WAYBILL_DATABASE_URL"])
def test_a_server_on_another_machine_is_refused_with_the_flag_that_allows_it(home: Home, name: str) -> None:
    urls = {
        AMQP: "amqp://u:p@127.0.0.1:5672/%2F",
        name: {
            AMQP: "amqp://u:secret@rabbit.example.com/prod",
            "OUTHAUL_MANAGEMENT_URL": "http://u:secret@rabbit.example.com:15672",
        }.get(name, "postgresql://u:secret@db.example.com/shop"),
    }
    with pytest.raises(ConfigurationError) as refused:
        read_exported(urls, home, allow_remote=False)
    assert refused.value.setting == name
    assert "--allow-remote" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_server_on_another_machine_is_used_when_that_is_said(home: Home) -> None:
    url = "amqp://u:p@rabbit.example.com/v"
    assert read_exported({AMQP: url}, home, allow_remote=True).amqp_url == url


def test_a_server_on_this_machine_is_used_in_place_of_our_own(home: Home) -> None:
    found = read_exported({AMQP: "amqp://u:p@localhost/%2F", ORDER: "postgresql:///shop"}, home, allow_remote=False)
    assert found.amqp_url == "amqp://u:p@localhost/%2F"
    assert found.management_url == "http://u:p@localhost:15672"
    assert found.databases == {"order": "postgresql:///shop"}


def test_urls_that_we_once_wrote_are_not_taken_for_somebody_elses(home: Home) -> None:
    remember_issued(home, ["amqp://outhaul:old@127.0.0.1:20001/%2F"])
    remember_issued(home, ["amqp://outhaul:new@127.0.0.1:20002/%2F"])
    for url in ("amqp://outhaul:old@127.0.0.1:20001/%2F", "amqp://outhaul:new@127.0.0.1:20002/%2F"):
        assert read_exported({AMQP: url}, home, allow_remote=False).amqp_url is None
    assert "old" not in "".join(issued(home))


def test_a_url_that_cannot_be_read_is_refused(home: Home) -> None:
    with pytest.raises(ConfigurationError):
        read_exported({AMQP: "localhost:5672"}, home, allow_remote=False)


@pytest.mark.parametrize(
    ("amqp", "management"),
    [
        ("amqp://u:p%40x@127.0.0.1:5000/v", "http://u:p%40x@127.0.0.1:15672"),
        ("amqps://u:p@localhost/v", "https://u:p@localhost:15671"),
        ("amqp://u:p@[::1]:5672/v", "http://u:p@[::1]:15672"),
        ("amqp://localhost/v", "http://guest:guest@localhost:15672"),
    ],
)
def test_the_management_api_is_looked_for_on_its_usual_port(amqp: str, management: str) -> None:
    assert guess_management_url(amqp) == management

"""The environment: typed readers, companions of a URL, names nobody reads, and the page that lists them all."""

import re
from pathlib import Path

import pytest

from outhaul.configuration.environment import Environment
from outhaul.configuration.settings_table import SETTINGS, reference_page
from outhaul.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]


def test_a_url_and_the_files_beside_it_are_read_together(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from-file")
    environment = Environment(
        {"OUTHAUL_AMQP_URL": "amqp://shop@h/v", "OUTHAUL_AMQP_PASSWORD_FILE": str(file), "HOME": "/root"}
    )
    broker = environment.broker()
    assert broker.secret.read(setting="x") == "from-file"
    assert broker.setting == "OUTHAUL_AMQP_URL"


def test_a_database_takes_its_password_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from-file")
    database = Environment(
        {"OUTHAUL_ORDER_DATABASE_URL": "host=/tmp", "OUTHAUL_ORDER_DATABASE_PASSWORD_FILE": str(file)}
    ).database("OUTHAUL_ORDER_DATABASE_URL")
    assert "password=from-file" in database.conninfo()


def test_what_is_missing_is_named_with_the_way_out() -> None:
    empty = Environment({"OUTHAUL_AMQP_URL": "  "})
    with pytest.raises(ConfigurationError, match=r"OUTHAUL_AMQP_URL=''.*amqp://user"):
        empty.broker()
    with pytest.raises(ConfigurationError, match=r"OUTHAUL_ORDER_DATABASE_URL=''.*postgresql://user"):
        empty.database("OUTHAUL_ORDER_DATABASE_URL")
    with pytest.raises(ConfigurationError, match=r"OUTHAUL_THING='': is not set"):
        empty.text("OUTHAUL_THING")
    assert empty.management_or_none() is None


def test_defaults_come_from_the_table() -> None:
    assert Environment({}).text("OUTHAUL_LOG_FORMAT") == "json"


@pytest.mark.parametrize("text", ["x", "1.5", "1_000", "٣", "-1", "101", "9" * 5000, "+5"])
def test_a_number_out_of_bounds_or_no_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="OUTHAUL_N=.*whole number from 0 to 100"):  # noqa: RUF043 - a pattern
        Environment({"OUTHAUL_N": text}).integer("OUTHAUL_N", least=0, most=100)


def test_numbers_durations_flags_and_choices_are_read() -> None:
    environment = Environment(
        {"OUTHAUL_N": "42", "OUTHAUL_D": "1500ms", "OUTHAUL_YES": "On", "OUTHAUL_NO": "0", "OUTHAUL_C": "b"}
    )
    assert environment.integer("OUTHAUL_N") == 42
    assert environment.integer("OUTHAUL_OTHER", 7) == 7
    assert environment.duration("OUTHAUL_D") == 1.5
    assert environment.duration("OUTHAUL_OTHER", "2m") == 120
    assert environment.flag("OUTHAUL_YES")
    assert not environment.flag("OUTHAUL_NO")
    assert environment.flag("OUTHAUL_OTHER", default=True)
    assert environment.text("OUTHAUL_C", choices=("a", "b")) == "b"


def test_nonsense_is_refused() -> None:
    environment = Environment({"OUTHAUL_D": "5", "OUTHAUL_F": "maybe", "OUTHAUL_C": "c"})
    with pytest.raises(ConfigurationError, match="OUTHAUL_D='5'"):
        environment.duration("OUTHAUL_D")
    with pytest.raises(ConfigurationError, match="between 1s and 2s"):
        environment.duration("OUTHAUL_OTHER", "5s", least=1, most=2)
    with pytest.raises(ConfigurationError, match="OUTHAUL_F='maybe': write true or false"):
        environment.flag("OUTHAUL_F")
    with pytest.raises(ConfigurationError, match="write one of: a, b"):
        environment.text("OUTHAUL_C", choices=("a", "b"))


def test_a_variable_nobody_reads_is_warned_about_with_the_nearest_name() -> None:
    environment = Environment(
        {"OUTHAUL_AMPQ_URL": "amqp://u:geheim@h/v", "OUTHAUL_XYZZY": "1", "PATH": "/", "OUTHAUL_LOG_LEVEL": "info"}
    )
    assert environment.warn_unknown() == [
        "OUTHAUL_AMPQ_URL is set and nothing reads it; did you mean OUTHAUL_AMQP_URL?",
        "OUTHAUL_XYZZY is set and nothing reads it",
    ]
    assert "geheim" not in repr(environment)


def test_every_variable_named_in_the_code_stands_in_the_table() -> None:
    known = {setting.name for setting in SETTINGS}
    sources = [
        *ROOT.glob("sdk/src/**/*.py"),
        *ROOT.glob("functions/*/src/**/*.py"),
        *ROOT.glob("local/src/**/*.py"),
        *ROOT.glob("operator/src/**/*.py"),
    ]
    named = {
        (name, path.relative_to(ROOT))
        for path in sources
        for name in re.findall(r"[\"'](OUTHAUL_[A-Z][A-Z0-9_]*[A-Z0-9])\b", path.read_text())
    }
    # A stem such as OUTHAUL_AMQP is named where its files are derived from it.
    stray = {(name, path) for name, path in named if not any(k == name or k.startswith(name + "_") for k in known)}
    assert not stray, f"add these to outhaul/configuration/settings_table.py: {stray}"


def test_the_settings_page_says_what_the_table_says() -> None:
    page = ROOT / "docs" / "reference" / "settings.md"
    assert reference_page() in page.read_text(), "copy outhaul.configuration.settings_table.reference_page() into it"

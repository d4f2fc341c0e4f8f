from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from outhaul.cli.group import root
from outhaul.cli.parts import MissingSetting, Parts
from outhaul.errors import ConfigurationError

SHOP, LOCAL = "postgresql://a@127.0.0.1/shop", "postgresql://a@127.0.0.1/local"


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    names = (
        "OUTHAUL_OUTBOX_DATABASE_URL",
        "OUTHAUL_ORDER_DATABASE_URL",
        "OUTHAUL_INBOX_DATABASE_URL",
        "OUTHAUL_WAYBILL_DATABASE_URL",
        "OUTHAUL_AMQP_URL",
        "OUTHAUL_MANAGEMENT_URL",
        "OUTHAUL_TOPOLOGY",
        "OUTHAUL_QUEUE",
    )
    return CliRunner().invoke(root, list(arguments), env={**dict.fromkeys(names), **(env or {})})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def database(component: str, options: dict[str, str] | None = None, **environ: str) -> str:
    return Parts(environ, options or {}).database_settings(component).address


def test_an_option_wins_over_the_environment() -> None:
    assert database("outbox", {"outbox_dsn": SHOP}, OUTHAUL_OUTBOX_DATABASE_URL=LOCAL).endswith("/shop")


def test_the_sides_own_option_wins_over_dsn() -> None:
    assert database("inbox", {"dsn": LOCAL, "inbox_dsn": SHOP}).endswith("/shop")
    assert database("outbox", {"dsn": LOCAL, "inbox_dsn": SHOP}).endswith("/local")


def test_the_generic_variable_wins_over_local_modes() -> None:
    assert database("inbox", OUTHAUL_INBOX_DATABASE_URL=SHOP, OUTHAUL_WAYBILL_DATABASE_URL=LOCAL).endswith("/shop")
    assert database("inbox", OUTHAUL_WAYBILL_DATABASE_URL=LOCAL).endswith("/local")


def test_a_component_of_ones_own_has_a_variable_of_its_name() -> None:
    assert database("billing", OUTHAUL_BILLING_DATABASE_URL=SHOP).endswith("/shop")


def test_an_empty_variable_counts_as_unset() -> None:
    assert database("outbox", OUTHAUL_OUTBOX_DATABASE_URL="", OUTHAUL_ORDER_DATABASE_URL=LOCAL).endswith("/local")


def test_a_missing_setting_names_the_option_and_the_variables() -> None:
    with pytest.raises(MissingSetting) as refused:
        database("outbox")
    for name in ("--outbox-dsn", "OUTHAUL_OUTBOX_DATABASE_URL", "OUTHAUL_ORDER_DATABASE_URL"):
        assert name in refused.value.message


def test_where_local_mode_has_run_the_error_says_what_to_source(elsewhere: Path) -> None:
    folder = elsewhere / ".outhaul"
    folder.mkdir()
    (folder / "env").write_text("")
    with pytest.raises(MissingSetting, match=r"source \.outhaul/env"):
        database("outbox")


def test_a_wrong_url_is_refused_by_the_name_of_its_option() -> None:
    with pytest.raises(ConfigurationError, match="--amqp-url"):
        Parts({}, {"amqp_url": "http://x"}).broker()


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("audit",),
        ("trace", "order-1"),
        ("resend",),
        ("resend", "--dry-run"),
        ("discard", "0193a1b2-7c4d-7e10-9f00-0123456789ab", "--reason", "x"),
        ("dlq", "list", "--queue", "shop.waybill"),
        ("dlq", "redrive", "--queue", "shop.waybill", "--yes"),
        ("topology", "diff", "--topology", "shop.toml"),
        ("schema", "status", "--component", "outbox"),
    ],
    ids=" ".join,
)
def test_without_settings_a_command_says_in_one_paragraph_what_is_missing(arguments: tuple[str, ...]) -> None:
    Path("shop.toml").write_text('[[exchanges]]\nname = "shop.events"\n')
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("outhaul: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert "give --" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("status", "--outbox-dsn", "postgresql://u:secret@[x/y"), "--outbox-dsn"),
        (("status", "--outbox-dsn", "nonsense"), "--outbox-dsn"),
        (("dlq", "list", "--queue", "q", "--amqp-url", "amqp://u:secret@h:99999/v"), "--amqp-url"),
        (("topology", "apply", "--topology", "missing.toml"), "--topology"),
        (("topology", "apply", "--topology", "nobody"), "--topology"),
        (("schema", "apply", "--component", "nothing"), "component"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_a_value_that_cannot_be_used_is_named_and_its_password_is_not(arguments: tuple[str, ...], name: str) -> None:
    done = run(*arguments, env={"OUTHAUL_AMQP_URL": "amqp://h/v", "OUTHAUL_MANAGEMENT_URL": "http://h"})
    assert done.exit_code == 2, done.output
    assert name in done.stderr
    assert "secret" not in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "--outbox-dsn", "postgresql://127.0.0.1:1/x"),
        ("audit", "--outbox-dsn", "postgresql://127.0.0.1:1/x", "--inbox-dsn", "postgresql://127.0.0.1:1/y"),
        ("dlq", "list", "--queue", "q", "--amqp-url", "amqp://127.0.0.1:1/x"),
        ("resend", "--watch", "--outbox-dsn", "postgresql://127.0.0.1:1/x", "--amqp-url", "amqp://127.0.0.1:1/x"),
        ("doctor", "--management-url", "http://127.0.0.1:1", "--amqp-url", "amqp://127.0.0.1:1/x"),
        ("schema", "status", "--component", "outbox", "--dsn", "postgresql://127.0.0.1:1/x"),
    ],
    ids=" ".join,
)
def test_a_part_that_is_away_is_exit_code_3(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.exit_code == 3, done.output
    assert "127.0.0.1:1" in done.output
    assert "Traceback" not in done.output


def test_a_queue_that_nobody_names_is_asked_for() -> None:
    Path("two.toml").write_text(
        '[[consumers]]\nqueue = "a"\nbindings = [{exchange = "e", routing_key = "k"}]\n'
        '[[consumers]]\nqueue = "b"\nbindings = [{exchange = "e", routing_key = "k"}]\n'
    )
    done = run("dlq", "list", "--topology", "two.toml", env={"OUTHAUL_AMQP_URL": "amqp://h/v"})
    assert done.exit_code == 2
    assert "choose one of a, b" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("resend", "--parked", "--id", "0193a1b2-7c4d-7e10-9f00-0123456789ab"),
        ("resend", "--created-from", "2026-01-31T10:00:00Z"),
        ("resend", "--watch", "--parked"),
        ("audit", "--grace", "1s"),
        ("audit", "--grace", "5"),
        ("dlq", "redrive", "--rate", "0"),
        ("dlq", "discard"),
        ("discard", "not-an-id", "--reason", "x"),
        ("discard", "0193a1b2-7c4d-7e10-9f00-0123456789ab", "--reason", " "),
    ],
    ids=" ".join,
)
def test_a_contradiction_is_refused_before_anything_is_opened(arguments: tuple[str, ...]) -> None:
    away = {"OUTHAUL_OUTBOX_DATABASE_URL": "postgresql://127.0.0.1:1/x", "OUTHAUL_AMQP_URL": "amqp://127.0.0.1:1/x"}
    assert run(*arguments, env=away).exit_code == 2

import click
import psycopg
import pytest
from click.testing import CliRunner, Result

from outhaul import errors
from outhaul.cli.driver_errors import explain
from outhaul.cli.exit_codes import FINDING, UNREACHABLE
from outhaul.cli.group import Lazy, Root, exit_code, root
from outhaul.cli.output import age, shorten, write_table


def failing(error: BaseException, *arguments: str) -> Result:
    class Failing(Root):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            @click.command()
            def fail() -> None:
                raise error

            return fail

    group = Failing(name="outhaul", lazy={"fail": Lazy("", "")}, params=root.params)
    return CliRunner().invoke(group, [*arguments, "fail"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigurationError("X", "v", "write w"), 2),
        (errors.BrokerUnreachable("h:1", "refused"), 3),
        (errors.DatabaseUnreachable("h:1", "refused"), 3),
        (errors.SchemaError("lacks version 1"), 1),
        (errors.TopologyError("no queue"), 1),
        (psycopg.errors.UndefinedTable("no outbox"), 1),
        (psycopg.errors.AdminShutdown("ended"), 3),
        (RuntimeError("a defect"), 4),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_each_error_has_its_exit_code_and_no_traceback(error: Exception, code: int) -> None:
    done = failing(error)
    assert done.exit_code == code
    assert done.stdout == ""
    assert done.stderr.startswith("outhaul: ")
    assert "Traceback" not in done.stderr


def test_a_defect_shows_its_traceback_only_when_asked() -> None:
    assert failing(RuntimeError("a defect")).exception.__class__ is SystemExit
    assert isinstance(failing(RuntimeError("a defect"), "--debug").exception, RuntimeError)


def test_every_error_of_the_tree_has_a_code() -> None:
    assert exit_code(errors.OuthaulError("x")) == FINDING
    assert exit_code(errors.Unreachable("h", "x")) == UNREACHABLE


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (psycopg.errors.UndefinedTable("x"), FINDING, "schema apply"),
        (psycopg.errors.InsufficientPrivilege("x"), UNREACHABLE, "grant"),
        (psycopg.errors.ReadOnlySqlTransaction("x"), UNREACHABLE, "primary"),
        (psycopg.OperationalError("x"), UNREACHABLE, "again"),
        (psycopg.errors.CheckViolation("x"), FINDING, "CheckViolation"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_drivers_error_is_told_with_its_remedy(error: psycopg.Error, code: int, says: str) -> None:
    text, found = explain(error)
    assert found == code
    assert says in text


def test_a_table_cannot_move_the_terminals_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(("name", "count"), [("evil\x1b[2J\n", 3), ("plain", 12)])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert shown.splitlines()[0].split() == ["NAME", "COUNT"]
    assert shown.splitlines()[2] == "plain         12"


def test_ages_and_texts_are_short() -> None:
    assert [age(seconds) for seconds in (-1, 0.0082, 2.34, 59, 61, 3600, 90_000)] == [
        "0ms",
        "8ms",
        "2.3s",
        "59s",
        "1m1s",
        "1h0m",
        "1d1h",
    ]
    assert shorten("a\n b  c", 10) == "a b c"
    assert shorten("x" * 20, 5) == "xxxx…"

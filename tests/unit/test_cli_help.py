import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from outhaul.cli.group import COMMANDS, root
from outhaul.cli.reference import reference_page

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


LEAVES = list(leaves(root))


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[" ".join(path) for path, _ in LEAVES])
def test_each_commands_help_teaches_by_examples(path: tuple[str, ...], command: click.Command) -> None:
    shown = CliRunner().invoke(root, [*path, "--help"])
    assert shown.exit_code == 0, shown.output
    assert "Examples:" in shown.output
    assert f"outhaul {' '.join(path)}" in shown.output
    assert "JSON:" in shown.output
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert all(option.help for option in options)
    assert "--output" in shown.output


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[" ".join(path) for path, _ in LEAVES])
def test_every_option_that_an_example_uses_exists(path: tuple[str, ...], command: click.Command) -> None:
    known = {name for option in command.params for name in option.opts} | {"--help"}
    examples = (command.epilog or "").split("JSON:")[0].replace("\\\n", " ")
    for line in examples.splitlines():
        ours = line.partition("|")[0]
        if ours.strip().startswith("outhaul"):
            assert {word for word in ours.split() if word.startswith("--")} <= known, line
            assert ours.split()[1 : 1 + len(path)] == list(path)


def test_the_overview_lists_every_command_and_the_exit_codes() -> None:
    shown = CliRunner().invoke(root, ["--help"])
    assert shown.exit_code == 0
    for name, lazy in COMMANDS.items():
        assert name in shown.output
        assert lazy.short_help in " ".join(shown.output.split())
    assert "3  a database or the broker cannot be reached" in shown.output


def test_the_overview_imports_no_driver() -> None:
    program = (
        "import sys\nfrom outhaul.cli.group import root\n"
        "root(['--help'], standalone_mode=False)\n"
        "heavy = {'psycopg', 'pika', 'rich', 'asyncio', 'prometheus_client'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_reference_page_says_what_the_commands_say() -> None:
    assert PAGE.read_text() == reference_page(), f"python -m outhaul.cli.reference > {PAGE}"


def test_an_unknown_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(root, ["nonsense"]).exit_code == 2


def test_the_version_is_told() -> None:
    shown = CliRunner().invoke(root, ["--version"])
    assert shown.exit_code == 0
    assert shown.output.startswith("outhaul ")

"""compose.yaml, as far as it can be checked by its text; bringing it up needs a Docker engine."""

import re
from pathlib import Path

from outhaul.configuration.settings_table import SETTINGS
from outhaul_local.docker_broker import IMAGE

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "compose.yaml").read_text()
EXAMPLE = dict(
    line.split("=", 1) for line in (ROOT / ".env.example").read_text().splitlines() if "=" in line and line[0] != "#"
)


def test_every_setting_given_to_a_process_is_one_that_is_read() -> None:
    given = set(re.findall(r"^ +(OUTHAUL_\w+):", COMPOSE, re.MULTILINE))
    assert given
    assert given <= {setting.name for setting in SETTINGS}


def test_every_variable_a_person_may_change_stands_in_the_example_with_its_default() -> None:
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE))
    assert used == EXAMPLE


def test_images_are_the_official_ones_and_the_same_as_elsewhere() -> None:
    images = set(re.findall(r"^ +(?:image:|FROM) (\S+)", COMPOSE, re.MULTILINE))
    assert images == {"postgres:18", IMAGE, "python:3.13-slim", "outhaul/local"}


def test_ports_are_published_on_loopback_alone() -> None:
    published = re.findall(r'"([^"\s]*:\d+)"', COMPOSE)
    assert len(published) == 5
    assert all(port.startswith("127.0.0.1:${") for port in published)


def test_data_is_kept_where_the_images_keep_it() -> None:
    assert "postgres:/var/lib/postgresql\n" in COMPOSE
    assert "rabbitmq:/var/lib/rabbitmq" in COMPOSE


def test_all_that_the_image_is_built_from_is_sent_to_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    members = re.search(r"members = \[(.*)\]", (ROOT / "pyproject.toml").read_text())
    assert members is not None
    for member in re.findall(r'"([^"]+)"', members[1]):
        assert f"!{member.split('/')[0]}" in ignored

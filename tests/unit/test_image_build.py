"""What `make images` asks of docker, podman and buildah; programs of their names write down what they hear."""

from __future__ import annotations

import os
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def built(tmp_path: Path, builder: str, *names: str, **environment: str) -> list[list[str]]:
    """The builder's own arguments, one list for each image. Raises CalledProcessError."""
    heard = tmp_path / "heard"
    heard.write_text("")
    for each in ("docker", "podman", "buildah"):
        program = tmp_path / each
        answer = "exit 1" if each != builder else f'[ "$1" != build ] || echo "$@" >> {shlex.quote(str(heard))}'
        program.write_text(f"#!/bin/sh\n{answer}\n")
        program.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(
        ["sh", str(ROOT / "local" / "images.sh"), *names],
        env={**inherited, "TAG": "", "BASE_IMAGE": "", "BUILDER": "", **environment, "PATH": path},
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return [line.split() for line in heard.read_text().splitlines()]


def tags(arguments: list[str]) -> set[str]:
    return {value for option, value in pairwise(arguments) if option == "--tag"}


def test_docker_builds_all_three_under_the_names_that_the_chart_asks_for(tmp_path: Path) -> None:
    made = built(tmp_path, "docker")
    assert [tags(each) for each in made] == [
        {"outhaul/order:dev"},
        {"outhaul/waybill:dev"},
        {"outhaul/operator:dev"},
    ]
    assert not any("BASE_IMAGE" in word for each in made for word in each)


@pytest.mark.parametrize("builder", ["podman", "buildah"])
def test_the_others_are_told_the_whole_name(tmp_path: Path, builder: str) -> None:
    """To them outhaul/order is localhost/outhaul/order, which no cluster asks for."""
    [arguments] = built(tmp_path, builder, "order", TAG="7")
    assert tags(arguments) == {"outhaul/order:7", "docker.io/outhaul/order:7"}


def test_a_base_that_is_not_there_is_fetched(tmp_path: Path) -> None:
    [arguments] = built(tmp_path, "buildah", "operator")
    assert [word for word in arguments if word.startswith("--pull")] == ["--pull=false"]


def test_no_credentials_of_an_index_show_in_the_arguments(tmp_path: Path) -> None:
    [arguments] = built(tmp_path, "docker", "order", UV_DEFAULT_INDEX="https://me:secret@index", BASE_IMAGE="base:1")
    assert {"UV_DEFAULT_INDEX", "BASE_IMAGE"} <= set(arguments)
    assert not any("secret" in word for word in arguments)


@pytest.mark.parametrize(
    ("builder", "names", "environment"),
    [("docker", ("shipping",), {}), ("docker", (), {"BUILDER": "kaniko"}), ("", (), {})],
)
def test_what_cannot_be_built_is_refused_by_name(
    tmp_path: Path, builder: str, names: tuple[str, ...], environment: dict[str, str]
) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        built(tmp_path, builder, *names, **environment)
    assert "make images: " in caught.value.stderr

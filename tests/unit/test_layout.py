"""What the folders must not become."""

from __future__ import annotations

import operator
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_operator_module_is_the_standard_librarys() -> None:
    """The folder of that name, once importable, would shadow it and break ``import collections``."""
    assert Path(operator.__file__).parent == Path(sysconfig.get_path("stdlib"))
    told = subprocess.run(
        [sys.executable, "-c", "import operator; print(operator.__file__)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert Path(told.stdout.strip()).parent == Path(sysconfig.get_path("stdlib"))


@pytest.mark.parametrize("pattern", ["operator/__init__.py", "operator/**/conftest.py", "operator/**/test_*.py"])
def test_nothing_makes_the_folder_importable(pattern: str) -> None:
    assert not list(ROOT.glob(pattern))


def test_tests_are_not_collected_as_packages_of_the_root() -> None:
    assert not (ROOT / "tests" / "__init__.py").exists()
    assert "--import-mode=importlib" not in (ROOT / "pyproject.toml").read_text()

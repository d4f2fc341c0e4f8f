import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outhaul.errors import ConfigurationError
from outhaul_local.demo import DemoOptions
from outhaul_local.demo_orders import LONGEST_LINE_BYTES, Job, Skipped, from_lines, made_up, opened


def read(content: bytes, *, at_most: int | None = None) -> tuple[list[Job], list[str], int]:
    told: list[str] = []
    skipped = Skipped(told.append)
    return list(from_lines("run", io.BytesIO(content), skipped, at_most=at_most)), told, skipped.count


def test_each_line_is_one_order_with_a_key_of_its_own() -> None:
    jobs, told, _ = read(b'{"a": 1}\n\n  \n{"a": 1}')
    assert [job.body for job in jobs] == [b'{"a": 1}', b'{"a": 1}']
    assert [job.key for job in jobs] == ["run-1", "run-4"]
    assert told == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "not JSON"),
        (b"[1]", "a JSON object is wanted, not list"),
        (b"null", "a JSON object is wanted"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 50_000, "nested too deeply"),
        (b'{"n": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_a_line_that_is_no_order_is_told_by_its_number_and_skipped(line: bytes, why: str) -> None:
    jobs, told, count = read(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    assert [job.label for job in jobs] == ["line 1", "line 3"]
    assert count == 1
    assert told[0].startswith("line 2 skipped: ")
    assert why in told[0]


def test_an_overlong_line_is_skipped_whole() -> None:
    jobs, told, count = read(b"x" * (3 * LONGEST_LINE_BYTES + 7) + b'\n{"a": 2}\n')
    assert [job.label for job in jobs] == ["line 2"]
    assert (count, len(told)) == (1, 1)


def test_many_bad_lines_are_counted_all_and_told_in_part() -> None:
    _, told, count = read(b"x\n" * 100)
    assert count == 100
    assert len(told) == 21


def test_a_number_bounds_how_many_lines_are_sent() -> None:
    jobs, _, _ = read(b"{}\n" * 10, at_most=3)
    assert len(jobs) == 3


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reading(content: bytes) -> None:
    jobs, _, count = read(content)
    assert len(jobs) + count <= content.count(b"\n") + 1


def test_the_same_seed_makes_the_same_orders() -> None:
    assert list(made_up("r", 5, seed=7)) == list(made_up("r", 5, seed=7))
    assert [job.body for job in made_up("r", 5, seed=7)] != [job.body for job in made_up("r", 5, seed=8)]
    assert all(json.loads(job.body)["lines"] for job in made_up("r", 5, seed=7))


def test_a_file_that_cannot_be_read_is_refused_by_its_name(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(ConfigurationError, match="FILE") as refused, opened(str(path)):
            pass
        assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("number", "rate", "name"),
    [
        *((number, None, "N") for number in ("0", "-1", "1e3", "abc", "", "9" * 5000, "²")),
        *((None, rate, "RATE") for rate in ("0", "-5", "1e9", "nan", "inf", "fast", "")),
    ],
)
def test_a_number_that_cannot_be_used_is_refused_by_its_name(number: str | None, rate: str | None, name: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        DemoOptions.checked(number=number, rate=rate, file=None, kill=False, seed=None)
    assert refused.value.setting == name


def test_numbers_are_taken_as_a_person_writes_them() -> None:
    wanted = DemoOptions.checked(number="500", rate="12.5", file=None, kill=True, seed=3)
    assert (wanted.number, wanted.rate, wanted.kill, wanted.seed) == (500, 12.5, True, 3)

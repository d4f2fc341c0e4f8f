"""Durations: what people write, in seconds and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outhaul.configuration.durations import format_duration, parse_duration
from outhaul.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("5s", 5), ("0s", 0), ("1.5s", 1.5), ("5m", 300), ("1h30m", 5400), ("7d", 604800), (" 30s ", 30)],
)
def test_a_duration_means_its_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "30", "s", "-5s", "5 s", "5S", "5min", "1e3s", "٣s", "inf", "nan", "5s;", "9" * 400 + "s", "1.s", "5s5"],
)
def test_anything_else_is_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"OUTHAUL_X=.*such as 250ms, 30s") as caught:
        parse_duration(text, setting="OUTHAUL_X")
    assert caught.value.setting == "OUTHAUL_X"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.25, "250ms"), (5, "5s"), (90, "90s"), (300, "5m"), (3600, "1h"), (5400, "90m"), (86400, "1d")],
)
def test_a_duration_is_written_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_a_duration_that_is_none_is_not_written(seconds: float) -> None:
    with pytest.raises(ConfigurationError):
        format_duration(seconds)


@given(st.integers(min_value=0, max_value=10**11))
def test_what_is_written_is_read_back(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, abs=1e-9)

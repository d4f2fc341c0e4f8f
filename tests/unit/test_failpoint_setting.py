"""Failpoints: what is taken, what is refused, that nothing happens while nobody asked, and that each happens once."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from function_process import command, environment
from outhaul import failpoints
from outhaul.errors import ConfigurationError
from outhaul.failpoints import COMMIT_ACK, CONFIRM_MARK, CONSUMER_POINTS, ORDER_POINTS, Trigger, arm, parse

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
POINTS = {point.name: point for point in (*ORDER_POINTS, *CONSUMER_POINTS)}


def test_a_setting_names_points_actions_and_times() -> None:
    assert parse(" confirm-mark=kill@3, commit-answer=stop,commit-publish=pause:1500ms ", offered=ORDER_POINTS) == (
        Trigger(CONFIRM_MARK, "kill", signal.SIGKILL, 0.0, 3),
        Trigger(failpoints.COMMIT_ANSWER, "stop", signal.SIGSTOP, 0.0, 1),
        Trigger(failpoints.COMMIT_PUBLISH, "pause:1500ms", None, 1.5, 1),
    )
    assert parse("  ", offered=ORDER_POINTS) == ()


@pytest.mark.parametrize(
    ("text", "way_out"),
    [
        ("confirm-mark", "point=kill"),
        ("confirm-mark=", "point=kill"),
        ("confirm-mark=explode", "point=kill"),
        ("confirm-mark=kill@0", "point=kill"),
        ("confirm-mark=kill@-1", "point=kill"),
        ("confirm-mark=kill@x", "point=kill"),
        ("confirm-mark=kill,", "point=kill"),
        ("confirm-mark=kill;commit-answer=kill", "point=kill"),
        ("confirm-mark=pause", "point=kill"),
        ("confirm-mark=pause:5", "write a number with its unit"),
        ("confirm_mark=kill", "did you mean confirm-mark?"),
        ("commit-ack=kill", "this process passes commit-answer"),
        ("confirm-mark=kill@1,confirm-mark=stop@2", "named twice"),
    ],
)
def test_what_is_malformed_or_never_passed_is_refused_with_the_way_out(text: str, way_out: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(way_out)) as caught:
        parse(text, offered=ORDER_POINTS)
    assert caught.value.setting == "OUTHAUL_TEST_FAILPOINTS"


@pytest.mark.parametrize("module", ["outhaul_order", "outhaul_waybill"])
def test_a_function_refuses_a_point_it_never_passes_in_one_line(module: str) -> None:
    settings = {
        "OUTHAUL_ORDER_DATABASE_URL": "postgresql://127.0.0.1:1/x",
        "OUTHAUL_WAYBILL_DATABASE_URL": "postgresql://127.0.0.1:1/x",
        "OUTHAUL_AMQP_URL": "amqp://guest:guest@127.0.0.1:1/%2F",
        "OUTHAUL_HTTP_PORT": "0",
        "OUTHAUL_TEST_FAILPOINTS": "commit-nothing=kill",
    }
    ended = subprocess.run(
        command(module), env=environment(settings), capture_output=True, text=True, timeout=20, check=False
    )
    assert ended.returncode == 2
    assert "OUTHAUL_TEST_FAILPOINTS" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_while_nobody_asked_every_point_is_the_same_empty_function() -> None:
    assert {point.hit for point in POINTS.values()} == {failpoints._pass}


def test_it_happens_at_its_time_and_at_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(COMMIT_ACK, "hit", COMMIT_ACK.hit)  # put back in the end
    caplog.set_level(logging.WARNING)
    arm(parse("commit-ack=pause:200ms@2", offered=CONSUMER_POINTS))
    assert "a test setting makes this process fail on purpose: commit-ack=pause:200ms@2" in caplog.text
    took = []
    for _ in range(3):
        began = time.monotonic()
        COMMIT_ACK.hit()
        took.append(time.monotonic() - began)
    assert took[1] >= 0.2 > max(took[0], took[2])
    assert caplog.text.count("failpoint reached: commit-ack=pause:200ms@2") == 1


def test_a_process_that_reaches_its_point_says_so_and_is_killed_there() -> None:
    program = (
        "import logging; logging.basicConfig(format='%(message)s')\n"
        "from outhaul.failpoints import *\n"
        "arm(parse('confirm-mark=kill@2', offered=ORDER_POINTS))\n"
        "CONFIRM_MARK.hit(); print('once', flush=True); CONFIRM_MARK.hit(); print('twice', flush=True)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == "once\n"
    assert "failpoint reached: confirm-mark=kill@2" in ended.stderr


def test_the_page_names_every_point_and_who_passes_it() -> None:
    found = dict(re.findall(r"^\| `([a-z-]+)` \| (order|waybill|order, waybill) \|", PAGE.read_text(), re.MULTILINE))
    functions = {"order": ORDER_POINTS, "waybill": CONSUMER_POINTS}
    assert found == {
        name: ", ".join(each for each, points in functions.items() if point in points) for name, point in POINTS.items()
    }

"""A resend that is killed, or stands still, between two steps that a crash must not tear apart."""

from __future__ import annotations

import signal
import subprocess
import sys

import psycopg
import pytest

from chaos.armed import state
from chaos.function import TESTS
from chaos.ledger import Told
from chaos.system import System, count, lasts
from function_process import environment
from support import poll

pytestmark = pytest.mark.chaos

PAST_THE_HEARTBEAT_SECONDS = 8.0


def begin(system: System, trigger: str = "") -> subprocess.Popen[str]:
    """`outhaul resend` of everything, always as the same run."""
    settings = {
        "PYTHONPATH": str(TESTS),
        "OUTHAUL_ORDER_DATABASE_URL": system.order_dsn,
        "OUTHAUL_AMQP_URL": system.broker.amqp_url + "?heartbeat=2s",
        "OUTHAUL_TEST_FAILPOINTS": trigger,
    }
    command = [sys.executable, "-P", "-m", "chaos.armed_command", "resend", "--run-id", "ticket-1"]
    return subprocess.Popen(command, env=environment(settings), cwd=system.folder, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code, and what it said."""
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def leave_a_backlog(system: System) -> Told:
    """Orders whose messages were not sent, and no sender."""
    with system.load() as load:
        load.more(20)
        system.links.order_to_broker.stop()
        load.more(100)
        told = load.finish()
    for sender in system.orders:
        sender.kill()
    assert system.pending() >= 90
    return told


def let_leases_end(system: System) -> None:
    """What somebody dead had taken is free again."""
    with psycopg.connect(system.order_dsn) as conn:
        conn.execute("UPDATE outbox SET available_at = clock_timestamp()")


def settled(system: System, told: Told) -> None:
    system.settle(told)
    assert count(system.order_dsn, "SELECT count(*) FROM runs WHERE run_id = 'ticket-1' AND state = 'done'") == 1


def test_a_resend_killed_between_any_two_steps_is_finished_by_the_same_run_begun_again(system: System) -> None:
    system.start()
    told = leave_a_backlog(system)
    for trigger in (
        f"commit-publish=kill@{system.rng.randint(1, 20)}",
        "publish-confirm=kill@2",
        "confirm-mark=kill@1",
    ):
        let_leases_end(system)
        code, said = end(begin(system, trigger))
        assert code == -signal.SIGKILL, said
        assert f"failpoint reached: {trigger}" in said
        assert system.pending(), "something is left for the next"
    let_leases_end(system)
    code, said = end(begin(system))
    assert code == 0, said
    settled(system, told)


@pytest.mark.parametrize("point", ["commit-publish", "publish-confirm", "confirm-mark"])
def test_a_resend_that_stands_still_between_two_steps_finishes_when_it_goes_on(point: str, system: System) -> None:
    """The broker has given up on its connection by then, and nobody on its run."""
    system.start()
    told = leave_a_backlog(system)
    let_leases_end(system)
    process = begin(system, f"{point}=stop@1")
    try:
        poll(lambda: state(process.pid) == "T", seconds=60, what=f"a resend that stands still at {point}")
        lasts(PAST_THE_HEARTBEAT_SECONDS)
    finally:
        process.send_signal(signal.SIGCONT)
    code, said = end(process)
    assert code == 0, said
    settled(system, told)

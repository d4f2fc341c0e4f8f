"""Functions that are killed, or stand still, between two steps that a crash must not tear apart.

Each point is passed on purpose, and the process's own log says that it ended there; each run ends with the ledger's
verdict. Where a point really lies is looked up in the databases and the queues at the moment of death.
"""

from __future__ import annotations

import psycopg
import pytest

from chaos.armed import arm, disarm, times_reached, wait_killed, wait_stopped
from chaos.function import Function
from chaos.ledger import judge
from chaos.ledger_reading import backlog, read
from chaos.system import System, count, lasts
from outhaul_waybill.topology import QUEUE
from support import poll
from support_amqp import Amqp

pytestmark = pytest.mark.chaos

SENDER_POINTS = ["commit-answer", "commit-publish", "publish-confirm", "confirm-mark"]
CONSUMER_POINTS = ["insert-commit", "commit-ack"]
LETTER_POINTS = ["publish-confirm", "letter-ack"]
DEAD_LETTERS = f"{QUEUE}.dlq"
PAST_THE_LEASE_SECONDS = 8.0


def victims_of(point: str, system: System) -> list[Function]:
    return system.orders if point in SENDER_POINTS else system.waybills


def armed_again(victim: Function, trigger: str) -> None:
    arm(victim, trigger)
    victim.restart(kill=False)
    victim.wait_ready()


def alive_again(victim: Function) -> None:
    disarm(victim)
    victim.start()
    victim.wait_ready()


def wait_ended(victim: Function, trigger: str) -> None:
    """Until it is dead, or stands still, as the trigger says."""
    (wait_killed if "=kill" in trigger else wait_stopped)(victim, trigger)


def go_on(victim: Function, trigger: str) -> None:
    """Started again, or moving again once the broker has given up on it."""
    if "=kill" in trigger:
        alive_again(victim)
    else:
        lasts(PAST_THE_LEASE_SECONDS)
        victim.thaw()


@pytest.mark.parametrize(
    ("point", "answered", "queued"),
    [
        ("commit-answer", False, 0),
        ("commit-publish", None, 0),  # the answer may or may not be on its way by then
        ("publish-confirm", True, 1),
        ("confirm-mark", True, 1),
    ],
)
def test_a_senders_point_lies_where_its_name_says(
    point: str, answered: bool | None, queued: int, system: System
) -> None:
    trigger = f"{point}=kill@1"
    system.start(orders=1, waybills=0, order_settings={"OUTHAUL_TEST_FAILPOINTS": trigger})
    [sender] = system.orders
    with Amqp(system.broker) as amqp, system.load(rate=1, clients=1) as load:
        wait_killed(sender, trigger)
        assert (system.committed(), system.pending()) == (1, 1), "one order, not marked sent"
        poll(lambda: amqp.depth(QUEUE) == queued, what=f"{queued} messages with the broker")
        if answered is not None:
            poll(lambda: bool(load.acknowledged) == answered, what=f"the client's view, answered: {answered}")
        alive_again(sender)
        told = load.finish()
        poll(lambda: system.pending() == 0, seconds=30, what="a row that is sent after its lease")
        copies = amqp.depth(QUEUE)
        system.start(orders=0)
    verdict = system.settle(told)
    assert copies == verdict.committed + queued, "what the broker already had is sent once more, nothing else is"


@pytest.mark.parametrize(("point", "made"), [("insert-commit", 0), ("commit-ack", 1)])
def test_a_consumers_point_lies_where_its_name_says(point: str, made: int, system: System) -> None:
    trigger = f"{point}=kill@1"
    system.start(waybills=1, waybill_settings={"OUTHAUL_TEST_FAILPOINTS": trigger})
    [consumer] = system.waybills
    with Amqp(system.broker) as amqp, system.load(rate=1, clients=1) as load:
        wait_killed(consumer, trigger)
        poll(lambda: amqp.depth(QUEUE) >= 1, what="a message that is not acknowledged")
        assert system.made() == made
        assert count(system.waybill_dsn, "SELECT count(*) FROM inbox") == made
        alive_again(consumer)
        system.settle(load.finish())


def test_an_order_between_its_insert_and_its_commit_is_there_or_not_and_never_twice(system: System) -> None:
    """The statement is one, so the point lies in the server: a deferred trigger waits there before the commit."""
    system.start()
    with psycopg.connect(system.order_dsn, autocommit=True) as conn:
        conn.execute(
            "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END $$"
        )
        conn.execute(
            "CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION linger()"
        )
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()"
    with system.load() as load:
        for ends_in_server in (False, True):
            load.more(20)
            with psycopg.connect(system.order_dsn, autocommit=True) as conn:
                conn.execute("SELECT pg_advisory_lock(1)")
                poll(lambda: count(system.order_dsn, waiting) >= 2, what="orders inserted and not committed")
                for function in system.orders:
                    function.kill()
                if ends_in_server:
                    # Else they commit, and nobody is there to be told.
                    conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'advisory'")
            for function in system.orders:
                function.start()
        load.more(20)
        verdict = system.settle(load.finish())
    assert verdict.recovered


@pytest.mark.parametrize(
    "point",
    [
        *SENDER_POINTS[:2],
        pytest.param("publish-confirm", marks=pytest.mark.chaos_quick),
        "confirm-mark",
        "insert-commit",
        pytest.param("commit-ack", marks=pytest.mark.chaos_quick),
    ],
)
def test_a_function_killed_between_two_steps_costs_no_order(point: str, system: System) -> None:
    system.start()
    victim = system.rng.choice(victims_of(point, system))
    trigger = f"{point}=kill@{system.rng.randint(1, 20)}"
    armed_again(victim, trigger)
    with system.load() as load:
        wait_killed(victim, trigger)
        load.more(20)
        alive_again(victim)
        load.more(20)
        system.settle(load.finish())
    assert system.spent_attempts() == 0


@pytest.mark.parametrize("point", [*SENDER_POINTS, *CONSUMER_POINTS])
def test_both_functions_killed_between_two_steps_twice_over_cost_no_order(point: str, system: System) -> None:
    system.start()
    victims = victims_of(point, system)
    triggers = [f"{point}=kill@{system.rng.randint(1, 10)}" for _ in victims]
    for victim, trigger in zip(victims, triggers, strict=True):
        armed_again(victim, trigger)
    with system.load() as load:
        for life in (1, 2):
            for victim, trigger in zip(victims, triggers, strict=True):
                wait_killed(victim, trigger, times=life)
                victim.start()
        for victim in victims:
            victim.kill()
            alive_again(victim)
        load.more(20)
        system.settle(load.finish())
    assert system.spent_attempts() == 0


@pytest.mark.parametrize("ends", ["goes on", "is killed"])
@pytest.mark.parametrize("point", [*SENDER_POINTS, *CONSUMER_POINTS])
def test_a_function_that_stands_still_between_two_steps_costs_no_order(point: str, ends: str, system: System) -> None:
    system.start()
    victim = system.rng.choice(victims_of(point, system))
    trigger = f"{point}=stop@{system.rng.randint(1, 20)}"
    armed_again(victim, trigger)
    with system.load() as load:
        wait_stopped(victim, trigger)
        lasts(PAST_THE_LEASE_SECONDS)
        if ends == "goes on":
            victim.thaw()
        else:
            victim.kill()
            alive_again(victim)
        load.more(20)
        system.settle(load.finish())
    assert system.spent_attempts() == 0


@pytest.mark.parametrize("action", ["kill", "stop"])
@pytest.mark.parametrize("point", LETTER_POINTS)
def test_a_consumer_killed_around_the_confirm_of_a_retry_costs_no_order(
    point: str, action: str, system: System
) -> None:
    """The message comes back from the queue, and its copy from the delay: one of the two takes effect."""
    trigger = f"{point}={action}@1"
    system.start(waybill_module="chaos.flaky_waybill", waybill_settings={"OUTHAUL_TEST_FAILPOINTS": trigger})
    with system.load(prefix="flaky", rate=2, clients=1) as load:
        poll(lambda: any(times_reached(each, trigger) for each in system.waybills), seconds=30, what="the first death")
        [victim, *_] = [each for each in system.waybills if times_reached(each, trigger)]
        wait_ended(victim, trigger)
        told = load.finish()
        for each in system.waybills:
            if each is not victim:
                each.kill()
                alive_again(each)
        go_on(victim, trigger)
        system.settle(told, seconds=90)


@pytest.mark.parametrize("action", ["kill", "stop"])
@pytest.mark.parametrize("point", LETTER_POINTS)
def test_a_consumer_killed_around_the_confirm_of_a_dead_letter_may_leave_two_and_loses_none(
    point: str, action: str, system: System
) -> None:
    """A letter is sent at least once, as every message: one that is there twice is one message to redrive."""
    trigger = f"{point}={action}@1"
    system.start(
        waybills=1,
        waybill_module="chaos.poisoned_waybill",
        waybill_settings={"OUTHAUL_CONSUMER_MAX_ATTEMPTS": "1", "OUTHAUL_TEST_FAILPOINTS": trigger},
    )
    [consumer] = system.waybills
    with Amqp(system.broker) as amqp:
        with system.load(prefix="raise", rate=0.5, clients=1) as load:
            load.more(1)
            told = load.finish()
        wait_ended(consumer, trigger)
        assert amqp.depth(DEAD_LETTERS) == 1
        go_on(consumer, trigger)
        poll(lambda: amqp.depth(DEAD_LETTERS) >= 2, seconds=30, what="the letter once more")
        poll(lambda: backlog(system.order_dsn, system.broker) == 0, seconds=30, what="an empty backlog")
        poll(lambda: "OuthaulDeadLetter" in system.alerts.names(), seconds=15, what="word of the dead letters")
    seen = read(system.order_dsn, system.waybill_dsn, system.broker)
    [order] = seen.orders
    # One that stood still may not know that its first is confirmed, and send it once more by itself.
    assert 2 <= len(seen.queued) <= (2 if action == "kill" else 3)
    assert {each.message_id for each in seen.queued} == {order.message_id}
    verdict = judge(told, seen, alerts=system.alerts.names())
    assert verdict.violations() == verdict.duplicated
    assert len(verdict.duplicated) == 1


def test_a_consumer_that_never_moves_again_inside_its_transaction_holds_nobody_up_for_long(system: System) -> None:
    """Its rows in the inbox are locked for as long as its session lasts, which the database is told to end."""
    trigger = "insert-commit=stop@5"
    system.start(waybill_settings={"OUTHAUL_CONSUMER_HANDLER_TIMEOUT": "2s"})
    victim = system.waybills[0]
    armed_again(victim, trigger)
    with system.load(rate=30) as load:
        wait_stopped(victim, trigger)
        load.more(20)
        told = load.finish()
        system.settle(told, seconds=60)
        victim.thaw()
        poll(lambda: victim.answers("/readyz") == 200, seconds=30, what="the consumer that goes on")
    assert system.made() == len(told.acknowledged)

"""What is known to make a Job fail: it is named, no Job is started, and one is as soon as it is gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import psycopg

from cluster.in_cluster import Servers
from cluster.stage import EXCHANGE, SECONDS, Stage
from letter_support import connected
from support import poll

ROWS = 20
# A Job that is not started now is not started later either: so many looks are waited for.
LOOKS = 2


def held_up(stage: Stage, outbox: str, condition: str, words: str) -> None:
    """The condition names the cause, and several looks later there is still no Job."""
    stage.says("outbox", outbox, condition, "False", words)
    stage.shows("outbox", outbox, ready="False")
    looks_are_made(stage)
    assert stage.jobs("outbox", outbox) == []


def looks_are_made(stage: Stage) -> None:
    """Another Outbox at the same interval is looked at so often that the first one was too."""
    for number in range(LOOKS):
        other = stage.outbox(f"{stage.name}-look-{number}", databaseSecretRef={"name": "nowhere"})
        stage.says("outbox", other, "DatabaseReachable", "False", "there is no Secret nowhere")
        stage.kube.kubectl("delete", "outbox", other, "--namespace", stage.namespace)


def drains(stage: Stage, outbox: str) -> None:
    """What was in the way is gone: everything is sent, once."""
    stage.shows("outbox", outbox, ready="True", pending="0", stuck="0")
    assert stage.depth() == stage.sent() == ROWS


def test_a_missing_exchange_is_named(stage: Stage) -> None:
    with connected(stage.broker) as shop:
        shop.channel.exchange_delete(EXCHANGE)
    stage.record(ROWS)
    outbox = stage.outbox()
    held_up(stage, outbox, "Routable", rf"exchange {EXCHANGE} does not exist; run `outhaul topology apply`")
    stage.tells(outbox, "ExchangeMissing")
    stage.topology()
    drains(stage, outbox)


def test_a_missing_schema_is_named(stage: Stage) -> None:
    stage.record(ROWS)
    outbox = stage.outbox(databaseSecretRef={"name": f"{stage.name}-elsewhere"})
    elsewhere = urlunsplit(urlsplit(stage.servers.inside(stage.order))._replace(path="/postgres"))
    stage.secret("elsewhere", {"url": elsewhere})
    held_up(stage, outbox, "DatabaseReachable", "run `outhaul schema apply`")
    stage.tells(outbox, "SchemaMissing")
    stage.secret("elsewhere", {"url": stage.servers.inside(stage.order)})
    drains(stage, outbox)


def test_an_alarm_is_named(stage: Stage, servers: Servers) -> None:
    stage.record(ROWS)
    with memory_alarm(servers):
        outbox = stage.outbox()
        held_up(stage, outbox, "BrokerReachable", "memory alarm")
        stage.tells(outbox, "BrokerAlarm")
    drains(stage, outbox)


def test_a_living_sender_that_is_merely_slow_is_left_to_its_work(stage: Stage) -> None:
    stage.record(ROWS)
    beat = (
        "INSERT INTO senders (sender_id, name, host, version, state, seen_at)"
        " VALUES (outhaul_first_id('2026-01-01'), 'order', 'slow-1', '1', 'connected',"
        " clock_timestamp() + %s::interval)"
        " ON CONFLICT (sender_id) DO UPDATE SET seen_at = excluded.seen_at"
    )
    stage.query(stage.order, beat, "1 hour")
    outbox = stage.outbox()
    stage.says("outbox", outbox, "Draining", "True", "order on slow-1 is alive and sends: what is stuck is left to it")
    stage.shows("outbox", outbox, pending=str(ROWS), stuck=str(ROWS))
    looks_are_made(stage)
    assert stage.jobs("outbox", outbox) == []
    stage.query(stage.order, beat, "-1 hour")
    stage.tells(outbox, "ResendStarted: .* since no sender is alive")
    drains(stage, outbox)


def test_history_beyond_the_retention_is_pruned_and_the_status_says_when(stage: Stage) -> None:
    """With an unsent row of the same age, which stands in another table and stays."""
    stage.query(
        stage.order,
        "INSERT INTO outbox_sent (message_id, seq, exchange, routing_key, type, aggregate_id, attempts, created_at)"
        " SELECT (left(outhaul_first_id(('2024-07-10'::date + n))::text, 35) || '1')::uuid, n, 'e', 'k', 't', '1', 0,"
        " '2024-07-10'::date + n FROM generate_series(1, 3) AS n",
    )
    stage.record(1)
    stage.query(stage.order, "UPDATE outbox SET status = 'parked', park_reason = 'kept', created_at = '2024-07-10'")
    blocking = stage.query(stage.order, "SELECT count(*) FROM outbox_sent")
    assert blocking == [(3,)]
    outbox = stage.outbox(retention={"sentDays": 30})
    stage.says("outbox", outbox, "HistoryTended", "True")
    assert stage.status("outbox", outbox)["tendedAt"]
    assert (stage.sent(), stage.unsent()) == (0, 1)


def test_history_that_cannot_be_pruned_is_told_and_the_outbox_stays_ready(stage: Stage) -> None:
    with psycopg.connect(stage.order) as conn:
        conn.execute("LOCK TABLE outbox_sent IN ACCESS SHARE MODE")
        conn.execute("DROP TABLE outbox_sent_default")
        outbox = stage.outbox()
        stage.says("outbox", outbox, "HistoryTended", "False", seconds=SECONDS)
        stage.shows("outbox", outbox, ready="True")
        assert "tendedAt" not in stage.status("outbox", outbox)
        conn.rollback()
    # Tried again after five minutes: a new Outbox, by the same name, is at once.
    stage.kube.kubectl("delete", "outbox", outbox, "--namespace", stage.namespace)
    stage.says("outbox", stage.outbox(), "HistoryTended", "True")


@contextmanager
def memory_alarm(servers: Servers) -> Iterator[None]:
    """The broker of this session takes no messages meanwhile."""

    def watermark(size: str) -> None:
        command = ["rabbitmqctl", "set_vm_memory_high_watermark", "absolute", size]
        servers.kube.kubectl("exec", "rabbitmq-0", "--namespace", servers.namespace, "--", *command, seconds=60)

    watermark("10MB")
    try:
        poll(lambda: "memory" in _alarms(servers), seconds=60, what="the memory alarm")
        yield
    finally:
        watermark("700MiB")
        poll(lambda: "memory" not in _alarms(servers), seconds=60, what="the end of the memory alarm")


def _alarms(servers: Servers) -> str:
    command = ["rabbitmqctl", "eval", "rabbit_alarm:get_alarms()."]
    return servers.kube.kubectl("exec", "rabbitmq-0", "--namespace", servers.namespace, "--", *command, seconds=60)

"""Rows that got stuck: who sends them, and what a person is told meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.in_cluster import Servers
from cluster.stage import EXCHANGE, QUEUE, ROUTING_KEY, Stage
from letter_support import connected
from support import poll


def test_rows_whose_sender_was_killed_are_sent_by_a_job(stage: Stage) -> None:
    stage.record(1000)
    outbox = stage.outbox()
    stage.tells(outbox, r"ResendStarted: round 1: one Job for 1000 stuck rows, since no sender is alive")
    shown = stage.shows("outbox", outbox, ready="True", pending="0", stuck="0", parked="0")
    assert shown["OLDEST"] == ""
    stage.tells(outbox, r"ResendSucceeded: round 1 sent 1000 rows")
    assert stage.unsent() == 0
    assert stage.depth() == stage.sent() == 1000
    [job] = stage.jobs("outbox", outbox)
    assert job["spec"]["ttlSecondsAfterFinished"] > 0


def test_a_big_backlog_is_drained_by_no_more_jobs_than_allowed(stage: Stage) -> None:
    stage.record(10_000)
    outbox = stage.outbox(resend={"batchSize": 2000, "maxParallelJobs": 3})
    most = 0

    def drained() -> bool:
        nonlocal most
        active = [job for job in stage.jobs("outbox", outbox) if job.get("status", {}).get("active")]
        most = max(most, len(active))
        return stage.status("outbox", outbox).get("pending") == 0

    poll(drained, seconds=150, what="the end of the backlog")
    stage.shows("outbox", outbox, ready="True", pending="0", stuck="0")
    assert most == 3
    assert len(stage.jobs("outbox", outbox)) == 5
    assert stage.depth() == stage.sent() == 10_000


def test_a_missing_binding_is_named_and_nothing_is_started_until_it_is_there(stage: Stage) -> None:
    with connected(stage.broker) as shop:
        shop.channel.queue_unbind(QUEUE, EXCHANGE, ROUTING_KEY)
        stage.record(20)
        outbox = stage.outbox()
        words = rf"exchange {EXCHANGE} has no queue bound for {ROUTING_KEY}"
        stage.says("outbox", outbox, "Routable", "False", words)
        stage.shows("outbox", outbox, ready="False", pending="20", stuck="20")
        stage.tells(outbox, words)
        assert stage.jobs("outbox", outbox) == []
        shop.channel.queue_bind(QUEUE, EXCHANGE, ROUTING_KEY)
    stage.shows("outbox", outbox, ready="True", pending="0")
    stage.says("outbox", outbox, "Routable", "True")
    assert stage.depth() == 20
    assert stage.query(stage.order, "SELECT max(attempts) FROM outbox_sent") in ([(0,)], [(1,)])


def test_while_the_broker_is_down_no_job_is_started_and_afterwards_one_is(stage: Stage, servers: Servers) -> None:
    stage.record(50)
    servers.scale("rabbitmq", 0)
    try:
        outbox = stage.outbox()
        stage.says("outbox", outbox, "BrokerReachable", "False", "check host|refused|no answer|unreachable|is up")
        stage.shows("outbox", outbox, ready="False", pending="50", stuck="50")
        assert stage.jobs("outbox", outbox) == []
    finally:
        servers.scale("rabbitmq", 1)
    stage.shows("outbox", outbox, ready="True", pending="0", stuck="0")
    assert stage.depth() == 50


@pytest.mark.parametrize("chosen", ["parked", "messageIds", "createdBetween"])
def test_parked_rows_are_sent_once_a_person_asks_for_it(stage: Stage, chosen: str) -> None:
    ids = stage.record(3)
    stage.query(stage.order, "UPDATE outbox SET status = 'parked', park_reason = 'refused: too large'")
    outbox = stage.outbox()
    stage.shows("outbox", outbox, ready="True", pending="0", parked="3")
    assert "too large" in stage.condition("outbox", outbox, "Ready")["message"]
    choices: dict[str, dict[str, Any]] = {
        "parked": {"parked": True},
        "messageIds": {"messageIds": [str(each) for each in ids]},
        "createdBetween": {"createdBetween": {"from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}},
    }
    resend = stage.resend("again", outbox, **choices[chosen])
    status = stage.reaches("resend", resend, "Succeeded")
    assert status["progress"].startswith("3")
    assert stage.row("resend", resend)["PHASE"] == "Succeeded"
    stage.tells(resend, "Succeeded: 3")
    stage.shows("outbox", outbox, ready="True", parked="0")
    assert stage.depth() == 3

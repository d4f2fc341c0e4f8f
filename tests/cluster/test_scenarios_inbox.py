"""Dead letters: people are told, and move them back or give them up, once."""

from __future__ import annotations

from cluster.conftest import MakeLocalOperator
from cluster.stage import DLQ, EXCHANGE, ROUTING_KEY, Stage
from letter_support import connected
from support import poll
from webhook_support import webhook


def test_dead_letters_are_shown_and_a_redrive_moves_them_back_once(stage: Stage) -> None:
    stage.letters(5)
    inbox = stage.inbox()
    words = rf"dead letters wait in {DLQ} \(rejected\); create a Redrive"
    stage.says("inbox", inbox, "DeadLettersEmpty", "False", words)
    shown = stage.shows("inbox", inbox, ready="True", dead_letters="5", depth="0", consumers="0")
    assert shown["IN RETRY"] == "0"

    asked = stage.redrive("asked", inbox, dryRun=True)
    status = stage.reaches("redrive", asked, "Succeeded")
    assert status["progress"].startswith("5 would be moved")
    assert stage.depth(DLQ) == 5

    first = stage.redrive("first", inbox)
    status = stage.reaches("redrive", first, "Succeeded")
    assert status["progress"] == "5 moved, of 5 dead letters seen"
    assert stage.redrive("first", inbox) == first
    second = stage.redrive("second", inbox)
    assert stage.reaches("redrive", second, "Succeeded")["progress"].startswith("0 moved")
    assert len(stage.jobs("redrive", first)) == 1
    assert stage.depth() == 5
    assert stage.depth(DLQ) == 0
    stage.shows("inbox", inbox, dead_letters="0", depth="5")
    stage.says("inbox", inbox, "Consuming", "False", "messages wait in queue .* and nobody consumes")
    moved = "SELECT run_id, state FROM runs ORDER BY started_at"
    assert [state for _, state in stage.query(stage.waybill, moved)].count("done") >= 2


def test_discarded_letters_are_gone_and_on_record_with_the_reason(stage: Stage) -> None:
    stage.letters(3, reason="invalid", body=b"{")
    inbox = stage.inbox()
    stage.shows("inbox", inbox, dead_letters="3")
    discard = stage.redrive("away", inbox, discard={"reason": "sent by a test of the webshop"})
    status = stage.reaches("redrive", discard, "Succeeded")
    assert status["progress"].startswith("3 discarded")
    stage.tells(discard, "Succeeded: 3 discarded")
    assert stage.depth(DLQ) == stage.depth() == 0
    stage.shows("inbox", inbox, ready="True", dead_letters="0")
    poll(
        lambda: "webshop" in str(stage.query(stage.waybill, "SELECT * FROM runs")),
        what="the reason to stand in the record",
    )


def test_people_are_told_of_dead_letters_while_no_consumer_lives(
    lone_stage: Stage, make_local_operator: MakeLocalOperator
) -> None:
    with webhook() as told, connected(lone_stage.broker) as shop:
        make_local_operator(lone_stage.namespace, OUTHAUL_ALERT_WEBHOOK_URL=told.url)
        lone_stage.letters(2)
        shop.channel.basic_publish(EXCHANGE, ROUTING_KEY, b"{}", mandatory=True)
        inbox = lone_stage.inbox(alerts={"noConsumer": "10s"})
        poll(
            lambda: {"OuthaulDeadLettersWaiting", "OuthaulNoConsumer"} <= told.names(),
            seconds=90,
            what="both alerts",
        )
        waiting = next(each for each in told.alerts if each["labels"]["alertname"] == "OuthaulDeadLettersWaiting")
        assert waiting["labels"]["inbox"] == inbox
        assert waiting["labels"]["namespace"] == lone_stage.namespace
        assert waiting["annotations"]["summary"].startswith("2 dead letters of")
        assert DLQ in waiting["annotations"]["description"]
        lone_stage.kube.kubectl("delete", "inbox", inbox, "--namespace", lone_stage.namespace)
        poll(
            lambda: any(
                each["status"] == "resolved" and each["labels"]["alertname"] == "OuthaulNoConsumer"
                for each in told.alerts
            ),
            seconds=90,
            what="the end of the alert with its object",
        )

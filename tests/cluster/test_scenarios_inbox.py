"""Dead letters: people are told, and move them back or give them up, once."""

from __future__ import annotations

from cluster.stage import DLQ, Stage
from support import poll


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

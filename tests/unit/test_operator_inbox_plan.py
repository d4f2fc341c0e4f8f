from dataclasses import replace

import pytest

from operator_support import AWAY, INBOX, NOW, after, condition, firing, inbox, queues, reasons, target
from outhaul.broker_admin.depths import Depth, Depths
from outhaul_operator.domain.inbox import ALARMS, gone, plan
from outhaul_operator.plan import Plan
from outhaul_operator.snapshot import BrokerView, DeadLetters, InboxDatabase, InboxSnapshot, Trouble


def looking_at(depths: Depths, **changes: object) -> InboxSnapshot:
    return inbox(broker=BrokerView(version="4.3.6", depths=depths), **changes)


def test_an_inbox_at_rest_is_ready_and_stays_as_it_is() -> None:
    first = plan(INBOX, inbox(), NOW)
    assert condition(first, "Ready")["status"] == "True"
    assert not first.events
    assert not firing(first)
    later = plan(INBOX, inbox(status=first.status), after(60))
    assert later.status == first.status
    assert not later.events


def test_the_status_tells_what_waits_and_what_died() -> None:
    tiers = (Depth(name="shop.waybill.retry.5s", ready=4, unacked=0, awaiting_dead_lettering=0, consumers=0),)
    broker = BrokerView(
        depths=replace(queues(ready=7, dead=3), tiers=tiers),
        dead_reasons=(DeadLetters("exhausted", 1), DeadLetters("malformed", 2)),
        oldest_dead_at=NOW,
    )
    status = plan(INBOX, inbox(broker=broker, database=InboxDatabase(at=NOW, failing=2)), NOW).status
    told = {name: status[name] for name in ("depth", "inRetry", "deadLetters", "consumers", "failing", "oldestDeadAt")}
    assert told == {
        "depth": 7,
        "inRetry": 4,
        "deadLetters": 3,
        "consumers": 1,
        "failing": 2,
        "oldestDeadAt": "2026-06-01T12:00:00Z",
    }
    assert status["deadLetterReasons"] == [{"reason": "malformed", "letters": 2}, {"reason": "exhausted", "letters": 1}]
    emptied = plan(INBOX, inbox(status=status), after(5)).status
    assert "deadLetterReasons" not in emptied
    assert "oldestDeadAt" not in emptied


def test_people_are_told_of_dead_letters_although_the_consumer_and_its_database_are_dead() -> None:
    broker = BrokerView(depths=queues(dead=2, consumers=0), dead_reasons=(DeadLetters("malformed", 2),))
    planned = plan(INBOX, inbox(database=AWAY, broker=broker), NOW)
    assert firing(planned) == {"OuthaulDeadLettersWaiting"}
    [alert] = [alert for alert in planned.alerts if alert.firing]
    assert alert.labels == {"namespace": "shop", "inbox": "waybill"}
    assert "(malformed)" in alert.description
    assert "create a Redrive" in alert.description
    assert "DeadLettersWaiting" in reasons(planned)


def test_dead_letters_below_the_bound_wake_nobody_and_an_emptied_queue_settles_it() -> None:
    patient = replace(INBOX, alert_dead_letters=5)
    assert not firing(plan(patient, looking_at(queues(dead=4)), NOW))
    fired = plan(patient, looking_at(queues(dead=5)), NOW)
    assert firing(fired) == {"OuthaulDeadLettersWaiting"}
    calm = plan(patient, looking_at(queues(), status=fired.status), after(30))
    assert not firing(calm)
    assert "OuthaulDeadLettersWaiting" in {alert.name for alert in calm.alerts}
    assert reasons(calm) == ["DeadLettersEmpty"]


def test_dead_letters_are_told_by_an_inbox_that_is_ready() -> None:
    ready = condition(plan(INBOX, looking_at(queues(dead=1)), NOW), "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "DeadLettersWaiting")


def test_messages_that_nobody_consumes_are_told_after_the_time_asked_for() -> None:
    lonely = queues(ready=3, consumers=0)
    first = plan(INBOX, looking_at(lonely), NOW)
    assert condition(first, "Consuming")["reason"] == "NoConsumer"
    assert condition(first, "Ready")["status"] == "False"
    assert not firing(first)
    assert not firing(plan(INBOX, looking_at(lonely, status=first.status), after(119)))
    assert firing(plan(INBOX, looking_at(lonely, status=first.status), after(120))) == {"OuthaulNoConsumer"}


def test_a_consumer_scaled_to_zero_is_fine_while_nothing_waits() -> None:
    found = condition(plan(INBOX, looking_at(queues(consumers=0)), NOW), "Consuming")
    assert (found["status"], found["reason"]) == ("True", "Idle")


def test_a_consumer_scaled_to_zero_is_fine_while_messages_wait_in_a_delay_tier_alone() -> None:
    """Nothing can be consumed before its time is over, and nothing scales the consumer up until then."""
    tier = Depth(name="shop.waybill.retry.5m", ready=1, unacked=0, awaiting_dead_lettering=0, consumers=0)
    depths = replace(queues(consumers=0), tiers=(tier,))
    first = plan(INBOX, looking_at(depths), NOW)
    assert condition(first, "Consuming")["status"] == "True"
    assert not firing(plan(INBOX, looking_at(depths, status=first.status), after(600)))


def test_a_reason_as_long_as_its_publisher_liked_is_cut() -> None:
    broker = BrokerView(depths=queues(dead=1), dead_reasons=(DeadLetters("x" * 100_000, 1),))
    planned = plan(INBOX, inbox(broker=broker), NOW)
    [told] = planned.status["deadLetterReasons"]
    assert len(told["reason"]) == 200
    assert len(str(planned.alerts)) < 5000


@pytest.mark.parametrize(
    ("depths", "kind", "reason", "words"),
    [
        (Depths(main=None, dead=None), "Consuming", "QueueMissing", "queue shop.waybill does not exist; run"),
        (queues(dead=None), "DeadLettersEmpty", "DeadLetterQueueMissing", "queue shop.waybill.dlq does not exist"),
        (queues(unlettered=2), "DeadLettersEmpty", "DeadLetteringStuck", "cannot get into shop.waybill.dlq"),
    ],
)
def test_a_missing_queue_is_told_with_what_makes_it(depths: Depths, kind: str, reason: str, words: str) -> None:
    found = condition(plan(INBOX, looking_at(depths), NOW), kind)
    assert (found["status"], found["reason"]) == ("False", reason)
    assert words in found["message"]


def test_letters_that_cannot_be_delivered_are_an_alert_of_their_own() -> None:
    first = plan(INBOX, looking_at(queues(unlettered=2)), NOW)
    later = plan(INBOX, looking_at(queues(unlettered=2), status=first.status), after(30))
    assert firing(later) == {"OuthaulDeadLetteringStuck"}
    assert condition(later, "Ready")["reason"] == "DeadLetteringStuck"


def test_the_last_counts_stay_while_the_broker_is_away_and_nothing_is_settled() -> None:
    before = plan(INBOX, looking_at(queues(ready=7, dead=1)), NOW)
    away = plan(INBOX, inbox(status=before.status, broker=Trouble("Unreachable", "broker away")), after(30))
    assert (away.status["depth"], away.status["deadLetters"]) == (7, 1)
    assert condition(away, "Consuming")["status"] == "Unknown"
    assert not {alert.name for alert in away.alerts} & {"OuthaulDeadLettersWaiting", "OuthaulNoConsumer"}


def test_a_queue_without_statistics_yet_keeps_what_was_known() -> None:
    fresh = Depths(main=Depth(name="q", ready=None, unacked=None, awaiting_dead_lettering=0, consumers=1), dead=None)
    assert "depth" not in plan(INBOX, looking_at(fresh), NOW).status


def test_without_the_management_api_the_inbox_says_what_it_cannot_see() -> None:
    blind = BrokerView(unseen=Trouble("NoManagementUrl", "add the entry management-url to the Secret"))
    planned = plan(INBOX, inbox(broker=blind), NOW)
    ready = condition(planned, "Ready")
    assert (ready["status"], ready["reason"]) == ("Unknown", "NoManagementUrl")
    assert "management-url" in ready["message"]


def test_a_deleted_inbox_takes_its_alerts_with_it() -> None:
    changes = gone(target("Inbox"), {})
    assert {change.name for change in changes} == {alarm.name for alarm in ALARMS}
    assert not any(change.firing for change in changes)


def test_an_inbox_that_is_being_deleted_is_left_alone() -> None:
    snapshot = inbox(target=target("Inbox", deleting=True), status={"depth": 1})
    assert plan(INBOX, snapshot, NOW) == Plan(status={"depth": 1})

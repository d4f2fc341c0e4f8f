from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from outhaul.broker_admin.depths import Depth, Depths
from outhaul.database.outbox_store import Counts
from outhaul.tools.findings import Finding, Level, need_somebody
from outhaul.tools.status import ConsumerStatus, LiveSender, OutboxStatus, Route, judge

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
SENDER = LiveSender(UUID(int=1), "order", "host", "1", "connected", NOW, NOW)
CALM = OutboxStatus(
    counts=Counts(0, 0, 0, 0, 0, None, NOW), senders=(SENDER,), troubled_routes=(), parked_reasons=(), sent_lately=5
)


def depth(name: str = "q", ready: int | None = 0, unacked: int | None = 0, consumers: int = 1, stuck: int = 0) -> Depth:
    return Depth(name=name, ready=ready, unacked=unacked, awaiting_dead_lettering=stuck, consumers=consumers)


def depths(main: Depth | None = None, dead: Depth | None = None) -> Depths:
    return Depths(main=main or depth(), dead=dead or depth("q.dlq", consumers=0))


def troubled(findings: list[Finding]) -> set[str]:
    return {finding.check for finding in findings if finding.needs_somebody}


def test_a_calm_system_needs_nobody() -> None:
    calm = ConsumerStatus(consumer="waybill", consumed_lately=5, failing=0, most_started=0, most_failed=0)
    assert not need_somebody(judge(outbox=CALM, inbox=[calm], queue="q", depths=depths()))


def test_rows_without_a_sender_are_a_problem() -> None:
    waiting = replace(CALM, senders=(), counts=Counts(3, 3, 0, 0, 0, NOW, NOW))
    assert troubled(judge(outbox=waiting)) == {"senders"}


def test_no_sender_is_fine_while_nothing_waits() -> None:
    assert not troubled(judge(outbox=replace(CALM, senders=())))


def test_stuck_rows_are_told_with_their_age() -> None:
    stuck = replace(CALM, counts=Counts(3, 3, 0, 2, 0, NOW - timedelta(seconds=90), NOW))
    [finding] = [finding for finding in judge(outbox=stuck) if finding.needs_somebody]
    assert "90 s" in finding.text


def test_parked_rows_and_broken_routes_are_told_with_their_reasons() -> None:
    bad = replace(
        CALM,
        parked_reasons=(("refused by the broker", 2),),
        troubled_routes=(Route("shop.events", "order.lost", 4, "312 NO_ROUTE"),),
    )
    found = judge(outbox=bad)
    assert troubled(found) == {"parked", "route"}
    assert any("312 NO_ROUTE" in finding.text for finding in found)


def test_failing_messages_are_a_warning() -> None:
    failing = ConsumerStatus(consumer="waybill", consumed_lately=5, failing=2, most_started=1, most_failed=4)
    [finding] = judge(inbox=[failing])
    assert finding.level is Level.WARNING


def test_messages_that_nobody_consumes_are_a_problem() -> None:
    assert troubled(judge(queue="q", depths=depths(depth(ready=2, consumers=0)))) == {"queue"}
    assert not troubled(judge(queue="q", depths=depths(depth(consumers=0))))


def test_dead_letters_and_those_on_their_way_are_problems() -> None:
    found = depths(depth(stuck=2), depth("q.dlq", ready=1, consumers=0))
    assert troubled(judge(queue="q", depths=found)) == {"dlq", "dead-lettering"}


def test_missing_queues_are_problems() -> None:
    assert troubled(judge(queue="q", depths=Depths(main=None, dead=None))) == {"queue"}
    assert troubled(judge(queue="q", depths=Depths(main=depth(), dead=None))) == {"dlq"}


def test_a_remedy_stands_with_everything_that_needs_somebody() -> None:
    bad = replace(CALM, senders=(), counts=Counts(3, 3, 0, 2, 1, NOW, NOW), parked_reasons=(("", 1),))
    found = judge(outbox=bad, queue="q", depths=depths(depth(ready=1, consumers=0, stuck=1), depth(ready=1)))
    assert all(finding.remedy for finding in found if finding.needs_somebody)


def test_what_waits_is_the_queue_and_its_tiers_and_unknown_when_one_is() -> None:
    tiers = (depth("q.retry.5s", 3), depth("q.retry.5m", 1))
    assert Depths(main=depth(ready=2, unacked=4, stuck=1), dead=None, tiers=tiers).waiting == 11
    assert Depths(main=depth(ready=2), dead=None, tiers=(depth("q.retry.5s", None),)).waiting is None
    assert Depths(main=None, dead=None).waiting is None


def test_a_sender_that_cannot_send_is_told_with_what_keeps_it() -> None:
    cut_off = SENDER._replace(state="disconnected: broker at mq:5672: login refused")
    [finding] = [found for found in judge(outbox=replace(CALM, senders=(cut_off,))) if found.needs_somebody]
    assert "login refused" in finding.text
    assert troubled(judge(outbox=replace(CALM, senders=(SENDER, cut_off)))) == {"senders"}


def test_a_sender_that_has_just_begun_or_reopens_its_channel_is_fine() -> None:
    for state in ("starting", "reopening: 404 NOT_FOUND", "connected; 1 broken route(s), first a/b"):
        assert not troubled(judge(outbox=replace(CALM, senders=(SENDER._replace(state=state),))))

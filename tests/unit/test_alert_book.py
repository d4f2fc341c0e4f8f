"""Which alerts are due: grouped, rate-limited, bounded. The clock is a number here."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outhaul.alert_book import AlertBook, Batch, Taken

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def fire(book: AlertBook, name: str = "Parked", *, now: float, **labels: str) -> Taken:
    return book.fire(name, labels, {"summary": f"{name} it is"}, now=now, at=AT)


def due(book: AlertBook, now: float) -> Batch:
    batch, _ = book.due(now)
    assert batch is not None
    return batch


def test_alerts_of_one_name_that_come_together_are_told_together() -> None:
    book = AlertBook(group_wait_seconds=1)
    fire(book, now=0, queue="a")
    fire(book, now=0.5, queue="b")

    assert book.due(0.9) == (None, 1.0)
    assert [alert.labels for alert in due(book, 1.0).alerts] == [{"queue": "a"}, {"queue": "b"}]


def test_new_ones_do_not_put_the_first_off() -> None:
    book = AlertBook(group_wait_seconds=1)
    for tick in range(100):
        fire(book, now=tick / 10, queue=str(tick))
    assert book.due(1.0)[0] is not None


def test_a_group_is_not_told_again_within_its_interval() -> None:
    book = AlertBook(group_wait_seconds=1, group_interval_seconds=30)
    fire(book, now=0, queue="a")
    book.delivered(due(book, 1), 1)
    fire(book, now=2, queue="b")

    assert book.due(2) == (None, 31)
    assert [alert.labels for alert in due(book, 31).alerts] == [{"queue": "b"}]


def test_one_that_goes_on_is_told_again_only_after_the_repeat_interval() -> None:
    book = AlertBook(group_wait_seconds=0, group_interval_seconds=0, repeat_seconds=600)
    fire(book, now=10)
    book.delivered(due(book, 10), 10)
    assert fire(book, now=11) is Taken.REPEATED
    for now in range(12, 100):
        assert fire(book, now=now) is Taken.KNOWN
    assert book.due(609) == (None, 610)
    assert due(book, 610).as_json()["alerts"][0]["annotations"]["occurrences"] == "90"


def test_what_happens_only_once_is_told_only_once() -> None:
    book = AlertBook(group_wait_seconds=0, group_interval_seconds=0, repeat_seconds=600)
    fire(book, now=0)
    book.delivered(due(book, 0), 0)
    assert book.due(1e9) == (None, None)


def test_its_end_is_told_and_then_it_is_forgotten() -> None:
    book = AlertBook(group_wait_seconds=0, group_interval_seconds=0)
    fire(book, now=0)
    book.delivered(due(book, 0), 0)
    assert book.resolve("Parked", {}, now=1, at=AT)
    batch = due(book, 1)
    assert batch.as_json()["status"] == "resolved"
    book.delivered(batch, 1)

    assert book.due(100) == (None, None)
    assert not book.resolve("Parked", {}, now=2, at=AT)


def test_what_ended_before_anybody_was_told_is_not_told() -> None:
    book = AlertBook()
    fire(book, now=0)
    book.resolve("Parked", {}, now=0.1, at=AT)
    assert book.untold() == 0
    assert book.due(100) == (None, None)


def test_one_that_begins_again_while_its_end_is_being_told_is_told_again() -> None:
    book = AlertBook(group_wait_seconds=0, group_interval_seconds=0)
    fire(book, now=0)
    book.delivered(due(book, 0), 0)
    book.resolve("Parked", {}, now=1, at=AT)
    ending = due(book, 1)
    assert fire(book, now=1.1) is Taken.NEW
    book.delivered(ending, 1.2)

    assert due(book, 2).as_json()["status"] == "firing"


def test_a_failed_telling_is_due_again_after_a_growing_pause() -> None:
    book = AlertBook(group_wait_seconds=0)
    fire(book, now=0)
    now = 0.0
    for _ in range(20):
        book.failed(due(book, now), now)
        _, later = book.due(now)
        assert later is not None
        assert now < later <= now + 60
        now = later
    assert book.untold() == 1


def test_at_the_end_there_is_no_waiting() -> None:
    book = AlertBook(group_wait_seconds=10)
    fire(book, now=0)
    assert book.due(0, at_once=True)[0] is not None


def test_a_large_group_is_told_in_parts() -> None:
    book = AlertBook(group_wait_seconds=0, most_in_batch=10)
    for number in range(25):
        fire(book, now=0, queue=str(number))
    batch = due(book, 0)
    assert (len(batch.alerts), batch.truncated) == (10, 15)
    book.delivered(batch, 0)
    batch = due(book, 0)
    assert (len(batch.alerts), batch.truncated) == (10, 5)


def test_beyond_its_bound_an_alert_is_dropped_until_a_told_one_makes_room() -> None:
    book = AlertBook(group_wait_seconds=0, most_alerts=2)
    assert [fire(book, now=0, queue=q) for q in "abc"] == [Taken.NEW, Taken.NEW, Taken.DROPPED]
    book.delivered(due(book, 0), 0)
    assert fire(book, now=1, queue="c") is Taken.NEW


def test_the_body_is_alertmanagers() -> None:
    book = AlertBook(group_wait_seconds=0)
    fire(book, now=0, queue="a", severity="critical")
    fire(book, now=0, queue="b", severity="critical")
    body = due(book, 0).as_json()

    assert body["version"] == "4"
    assert body["status"] == "firing"
    assert body["groupKey"] == '{}:{alertname="Parked"}'
    assert body["groupLabels"] == {"alertname": "Parked"}
    assert body["commonLabels"] == {"alertname": "Parked", "severity": "critical"}
    assert body["commonAnnotations"] == {"summary": "Parked it is", "occurrences": "1"}
    assert body["alerts"][0] == {
        "status": "firing",
        "labels": {"alertname": "Parked", "queue": "a", "severity": "critical"},
        "annotations": {"summary": "Parked it is", "occurrences": "1"},
        "startsAt": "2026-01-02T03:04:05+00:00",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "",
        "fingerprint": body["alerts"][0]["fingerprint"],
    }
    assert body["alerts"][0]["fingerprint"] != body["alerts"][1]["fingerprint"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["fire", "resolve", "post", "answer", "fail"]), st.sampled_from("ab"), st.sampled_from("xyz")
    ),
    max_size=60,
)


@given(STEPS)
def test_what_people_were_told_last_becomes_what_is_true(steps: list[tuple[str, str, str]]) -> None:
    book = AlertBook(group_wait_seconds=0, group_interval_seconds=0, most_alerts=100)
    true: dict[tuple[str, str], bool] = {}
    told: dict[tuple[str, str], bool] = {}

    posting: Batch | None = None

    def answered(batch: Batch, body: Any, now: float) -> None:
        for alert in body["alerts"]:
            told[alert["labels"]["alertname"], alert["labels"]["q"]] = alert["status"] == "firing"
        book.delivered(batch, now)

    for now, (step, name, label) in enumerate([*steps, *[("answer", "", ""), ("post", "", "")] * 8]):
        match step:
            case "fire":
                fire(book, name, now=now, q=label)
                true[name, label] = True
            case "resolve":
                book.resolve(name, {"q": label}, now=now, at=AT)
                true[name, label] = False
            case "post" if posting is None:
                posting, _ = book.due(now, at_once=True)
                body = None if posting is None else posting.as_json()
            case "answer" if posting is not None:
                answered(posting, body, now)
                posting = None
            case "fail" if posting is not None:
                book.failed(posting, now)
                posting = None
    assert {key for key, firing in told.items() if firing} == {key for key, firing in true.items() if firing}
    assert book.untold() == 0


@pytest.mark.parametrize("count", [1, 5000])
def test_memory_is_bounded_whatever_fires(count: int) -> None:
    book = AlertBook(most_alerts=50)
    for number in range(count):
        fire(book, f"Name{number}", now=0)
    assert book.untold() <= 50


def test_what_an_earlier_process_told_is_told_to_be_over() -> None:
    book = AlertBook(group_wait_seconds=0, most_alerts=1)
    fired_at = datetime(2026, 1, 1, tzinfo=UTC)
    assert book.resolve("Parked", {"queue": "a"}, now=1, at=AT, fired_at=fired_at, annotations={"summary": "over"})
    [told] = due(book, 1).as_json()["alerts"]
    assert (told["status"], told["startsAt"], told["annotations"]["summary"]) == (
        "resolved",
        "2026-01-01T00:00:00+00:00",
        "over",
    )


def test_what_an_earlier_process_told_takes_no_more_room_than_there_is() -> None:
    book = AlertBook(most_alerts=1)
    fire(book, now=0)
    assert not book.resolve("Other", {}, now=1, at=AT, fired_at=AT)


def test_an_alert_names_its_runbook_and_one_of_somebody_elses_names_none() -> None:
    book = AlertBook(group_wait_seconds=0)
    fire(book, "OuthaulParked", now=0)
    [alert] = due(book, 1).as_json()["alerts"]
    assert alert["annotations"]["runbook_page"] == "docs/runbooks.md#outhaulparked"
    book = AlertBook(group_wait_seconds=0)
    fire(book, "PaymentsDown", now=0)
    [alert] = due(book, 1).as_json()["alerts"]
    assert "runbook_page" not in alert["annotations"]

from datetime import UTC, datetime

from operator_support import NOW, after
from outhaul_operator.conditions import (
    MESSAGE_CHARACTERS,
    held_since,
    instant,
    instant_or_none,
    merge,
    no,
    transitions,
    unknown,
    yes,
)


def test_a_condition_has_every_field_the_conventions_ask_for() -> None:
    assert merge((), [no("Ready", "BrokerAway", "start it")], at=NOW, generation=3) == [
        {
            "type": "Ready",
            "status": "False",
            "reason": "BrokerAway",
            "message": "start it",
            "lastTransitionTime": "2026-06-01T12:00:00Z",
            "observedGeneration": 3,
        }
    ]


def test_the_last_transition_moves_with_the_status_and_with_nothing_else() -> None:
    first = merge((), [no("Ready", "A", "a")], at=NOW, generation=1)
    same = merge(first, [no("Ready", "B", "b")], at=after(60), generation=2)
    assert same[0]["lastTransitionTime"] == "2026-06-01T12:00:00Z"
    assert (same[0]["reason"], same[0]["observedGeneration"]) == ("B", 2)
    turned = merge(same, [yes("Ready", "B", "b")], at=after(60), generation=2)
    assert turned[0]["lastTransitionTime"] == "2026-06-01T12:01:00Z"


def test_a_condition_without_an_instant_gets_one() -> None:
    broken = [{"type": "Ready", "status": "True", "reason": "A", "message": ""}]
    assert merge(broken, [yes("Ready", "A")], at=NOW, generation=1)[0]["lastTransitionTime"] == "2026-06-01T12:00:00Z"


def test_people_hear_of_trouble_of_another_reason_and_of_healing_and_of_nothing_else() -> None:
    bad, worse, good = no("Ready", "A", "a"), no("Ready", "B", "b"), yes("Ready", "Fine", "fine")

    def told(before: object, now: object) -> list[tuple[str, str]]:
        known = merge((), [before], at=NOW, generation=1) if before else ()  # type: ignore[list-item] # a Condition
        return [(note.type, note.reason) for note in transitions(known, [now])]  # type: ignore[list-item] # as above

    assert told(None, bad) == [("Warning", "A")]
    assert told(bad, bad) == []
    assert told(bad, worse) == [("Warning", "B")]
    assert told(bad, good) == [("Normal", "Ready")]
    assert told(None, good) == []
    assert told(good, unknown("Ready", "NotSeen", "?")) == []
    assert told(unknown("Ready", "NotSeen", "?"), good) == []
    assert told(good, yes("Ready", "Slow", "slow", warns=True)) == [("Warning", "Slow")]


def test_long_messages_are_cut_and_say_so() -> None:
    [merged] = merge((), [no("Ready", "A", "x" * 5000)], at=NOW, generation=1)
    assert len(merged["message"]) == MESSAGE_CHARACTERS
    assert merged["message"].endswith("…")


def test_since_when_a_condition_has_held_is_known_while_it_does() -> None:
    merged = merge((), [no("Ready", "A", "a")], at=NOW, generation=1)
    assert held_since(merged, "Ready", "False") == NOW
    assert held_since(merged, "Ready", "True") is None
    assert held_since(merged, "Other", "False") is None


def test_instants_are_read_back_as_they_were_written() -> None:
    assert instant_or_none(instant(NOW)) == NOW
    assert instant_or_none("2026-06-01T12:00:00") == datetime(2026, 6, 1, 12, tzinfo=UTC)
    assert instant_or_none("soon") is None
    assert instant_or_none(None) is None

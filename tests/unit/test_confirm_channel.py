from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pika import exceptions, frame, spec

from outhaul.amqp.confirm_channel import ConfirmChannel
from outhaul.amqp.outgoing import Outcome, Outgoing, Settled
from outhaul.amqp.window import Window


class Rig:
    """A confirm channel over a connection that only remembers what it was given."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.events: list[Any] = []
        params = SimpleNamespace(frame_max=131_072)
        self.pika = SimpleNamespace(
            is_open=True,
            channel_number=1,
            connection=SimpleNamespace(params=params, emit=self.sent.append),
            close=lambda: self.events.append("closed"),
        )
        self.channel = ConfirmChannel(
            self.pika,
            Window(max_messages=100, max_bytes=1_000_000),
            on_confirmed=lambda keys: self.events.append(("confirmed", keys)),
            on_settled=self.events.extend,
            on_ended=lambda answered, why: self.events.append(("ended", answered, why)),
            on_latency=lambda _: None,
        )

    def publish(self, *keys: str) -> None:
        for key in keys:
            assert self.channel.publish(Outgoing(key, "e", "k", b"body", key)) is None

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        self.channel._answer(frame.Method(1, spec.Basic.Ack(tag, multiple)))

    def nack(self, tag: int, *, multiple: bool = False) -> None:
        self.channel._answer(frame.Method(1, spec.Basic.Nack(tag, multiple)))


def closed(code: int) -> exceptions.ChannelClosedByBroker:
    return exceptions.ChannelClosedByBroker(code, "why")


def test_confirms_come_in_batches() -> None:
    rig = Rig()
    rig.publish("a", "b", "c")
    rig.ack(3, multiple=True)
    assert rig.events == [("confirmed", ["a", "b", "c"])]


def test_a_multiple_nack_is_told_of_each() -> None:
    rig = Rig()
    rig.publish("a", "b")
    rig.nack(2, multiple=True)
    settled = [each for each in rig.events if isinstance(each, Settled)]
    assert [(each.key, each.outcome) for each in settled] == [("a", Outcome.NACKED), ("b", Outcome.NACKED)]


def test_a_channel_that_was_nacked_ends_once_nothing_is_in_flight_and_before_anybody_is_told() -> None:
    rig = Rig()
    rig.publish("a", "b", "c")
    rig.nack(2)
    assert len(rig.events) == 1, "others are in flight"
    rig.ack(1)
    rig.ack(3)
    assert rig.events[1:] == [("confirmed", ["a"]), ("ended", True, ""), "closed", ("confirmed", ["c"])]
    rig.channel.end(closed(404))
    assert len(rig.events) == 5, "it ends once"


def test_a_message_alone_in_flight_is_the_cause_of_its_channels_end() -> None:
    for code, outcome in ((404, Outcome.NO_EXCHANGE), (403, Outcome.NO_EXCHANGE), (406, Outcome.REFUSED)):
        rig = Rig()
        rig.publish("a")
        rig.channel.end(closed(code))
        assert rig.events == [("ended", True, f"{code} why"), Settled("a", outcome, f"{code} why")]


def test_several_in_flight_are_all_suspects() -> None:
    rig = Rig()
    rig.publish("a", "b")
    rig.channel.end(closed(404))
    assert rig.events[0] == ("ended", False, "404 why")
    assert [(each.key, each.outcome, each.suspect) for each in rig.events[1:]] == [
        ("a", Outcome.UNKNOWN, True),
        ("b", Outcome.UNKNOWN, True),
    ]


def test_a_lost_connection_makes_no_suspects() -> None:
    rig = Rig()
    rig.publish("a", "b")
    rig.channel.end(exceptions.StreamLostError("reset"))
    assert [(each.outcome, each.suspect) for each in rig.events[1:]] == [(Outcome.UNKNOWN, False)] * 2


def test_what_is_overdue_while_the_broker_answers_for_others_is_its_routes_fault() -> None:
    rig = Rig()
    rig.publish("stuck", "quick", "fresh")
    rig.ack(2)
    rig.channel.window._pending[1] = rig.channel.window._pending[1]._replace(published_at=-1000.0)
    rig.events.clear()
    rig.channel.give_up(TimeoutError("no confirm within 30 s"), 30.0)
    assert [(each.key, each.outcome) for each in rig.events[1:]] == [
        ("stuck", Outcome.UNCONFIRMED),
        ("fresh", Outcome.UNKNOWN),
    ]


def test_what_is_overdue_on_a_silent_link_is_unknown() -> None:
    rig = Rig()
    rig.publish("a", "b")
    rig.channel.give_up(TimeoutError("no confirm within 0 s"), 0.0)
    assert [each.outcome for each in rig.events[1:]] == [Outcome.UNKNOWN, Outcome.UNKNOWN]


def test_nothing_is_settled_twice_and_late_answers_are_ignored() -> None:
    rig = Rig()
    rig.publish("a", "b")
    rig.channel.end(closed(406))
    before = list(rig.events)
    rig.ack(2, multiple=True)
    rig.channel.end(closed(404))
    assert rig.events == before


def test_a_closed_channel_takes_nothing_and_says_so() -> None:
    rig = Rig()
    rig.pika.is_open = False
    settled = rig.channel.publish(Outgoing("a", "e", "k", b"", "a"))
    assert settled is not None
    assert (settled.outcome, rig.sent) == (Outcome.UNKNOWN, [])

"""Alerts against a real HTTP server that is well, down, slow, broken or endless."""

import base64
import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from outhaul.alerts import Alerter
from outhaul.errors import ConfigurationError
from outhaul.metrics import Metrics
from support import poll


class Handler(BaseHTTPRequestHandler):
    """Answers as its receiver says."""

    server: "Server"

    def do_POST(self) -> None:
        receiver = self.server.receiver
        body = self.rfile.read(int(self.headers["Content-Length"]))
        receiver.requests.append((self.path, self.headers.get("Authorization", "")))
        match receiver.behaviour:
            case "slow":
                receiver.ended.wait(30)
            case "drip":
                self.send_response(200)
                self.end_headers()
                while not receiver.ended.wait(0.05):
                    self.wfile.write(b".")
            case "broken":
                self.answer(500)
            case "elsewhere":
                self.answer(302, Location="/stolen")
            case "nonsense":
                self.wfile.write(b"\x00\x01 this is no HTTP\r\n\r\n")
            case _:
                receiver.bodies.append(json.loads(body))
                self.answer(200)

    def answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name for it
        pass

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the alerter hangs up on a slow answer, as it should
            super().handle()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, receiver: "Receiver") -> None:
        self.receiver = receiver
        super().__init__(("127.0.0.1", port), Handler)


class Receiver:
    """A webhook that answers as told and remembers what it was sent."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self.behaviour = "ok"
        self.ended = threading.Event()
        self.port = 0
        self.start()
        self.url = f"http://127.0.0.1:{self.port}/hook"

    def start(self) -> None:
        self.server = Server(self.port, self)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def alerts(self) -> list[dict[str, Any]]:
        return [alert for body in self.bodies for alert in body["alerts"]]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.ended.set()
    made.stop()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def alerter(receiver: Receiver, metrics: Metrics) -> Iterator[Alerter]:
    made = Alerter(
        receiver.url,
        metrics=metrics,
        common_labels={"service": "waybill"},
        group_wait_seconds=0.05,
        group_interval_seconds=0.1,
        timeout_seconds=0.5,
    )
    yield made
    made.close(0)


def counted(metrics: Metrics, result: str) -> float:
    return float(metrics.registry.get_sample_value("outhaul_alerts_total", {"result": result}) or 0)


def test_people_are_told_in_alertmanagers_form(receiver: Receiver, alerter: Alerter, metrics: Metrics) -> None:
    alerter.fire("DeadLetters", labels={"queue": "shop.waybill"}, summary="One came", severity="critical")
    poll(lambda: receiver.bodies)

    [body] = receiver.bodies
    assert (body["version"], body["status"]) == ("4", "firing")
    assert body["alerts"][0]["labels"] == {
        "alertname": "DeadLetters",
        "queue": "shop.waybill",
        "service": "waybill",
        "severity": "critical",
    }
    assert body["alerts"][0]["annotations"]["summary"] == "One came"
    poll(lambda: counted(metrics, "delivered") == 1)


def test_a_storm_becomes_a_request_or_two(receiver: Receiver, alerter: Alerter) -> None:
    for _ in range(1000):
        alerter.fire("DeadLetters", labels={"queue": "q"}, summary="One more")
    poll(lambda: receiver.bodies)
    alerter.close()

    assert len(receiver.bodies) <= 2, "one at once, and at the end how many it became"
    assert receiver.alerts()[-1]["annotations"]["occurrences"] == "1000"


def test_one_that_goes_on_is_told_again(receiver: Receiver) -> None:
    alerter = Alerter(receiver.url, group_wait_seconds=0.01, group_interval_seconds=0.01, repeat_seconds=0.2)
    alerter.fire("DeadLetters", summary="One came")
    poll(lambda: receiver.bodies)
    alerter.fire("DeadLetters", summary="Another came")
    poll(lambda: len(receiver.bodies) == 2)
    alerter.close()

    assert receiver.alerts()[1]["annotations"] == {"summary": "Another came", "description": "", "occurrences": "2"}


def test_its_end_is_told_too(receiver: Receiver, alerter: Alerter) -> None:
    alerter.fire("BreakerOpen", labels={"route": "r"}, summary="Held back")
    poll(lambda: receiver.bodies)
    alerter.resolve("BreakerOpen", labels={"route": "r"})
    poll(lambda: len(receiver.bodies) == 2)

    assert [alert["status"] for alert in receiver.alerts()] == ["firing", "resolved"]
    assert receiver.alerts()[1]["endsAt"] > receiver.alerts()[1]["startsAt"]


@pytest.mark.parametrize("behaviour", ["slow", "drip", "broken", "elsewhere", "nonsense"])
def test_a_webhook_that_fails_holds_nobody_up_and_is_told_once_it_is_well(
    behaviour: str, receiver: Receiver, alerter: Alerter, metrics: Metrics
) -> None:
    receiver.behaviour = behaviour
    began = time.monotonic()
    for number in range(200):
        alerter.fire("DeadLetters", labels={"queue": str(number % 20)}, summary="One came")
    assert time.monotonic() - began < 0.25
    poll(lambda: counted(metrics, "failed") >= 20)
    receiver.behaviour = "ok"
    poll(lambda: len(receiver.alerts()) >= 20)

    assert {alert["labels"]["queue"] for alert in receiver.alerts()} == {str(number) for number in range(20)}
    assert not [path for path, _ in receiver.requests if path != "/hook"]


def test_a_webhook_that_is_down_is_told_once_it_is_up(
    receiver: Receiver, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.stop()
    alerter = Alerter(receiver.url, metrics=metrics, group_wait_seconds=0.01)
    alerter.fire("DeadLetters", summary="One came")
    poll(lambda: counted(metrics, "failed") >= 1)
    receiver.start()
    poll(lambda: receiver.bodies, seconds=20)
    alerter.close()

    complaints = [r for r in caplog.records if "does not take alerts" in r.getMessage()]
    assert len(complaints) == 1


def test_closing_tells_what_is_left_and_never_waits_longer_than_it_may(receiver: Receiver, alerter: Alerter) -> None:
    alerter.fire("Last", summary="At the end")
    alerter.close(5)
    assert [alert["labels"]["alertname"] for alert in receiver.alerts()] == ["Last"]


def test_closing_with_a_dead_webhook_is_bounded_and_counts_what_was_lost(
    receiver: Receiver, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.behaviour = "slow"
    alerter = Alerter(receiver.url, metrics=metrics, group_wait_seconds=0.01, timeout_seconds=60)
    alerter.fire("Last", summary="At the end")
    poll(lambda: receiver.requests)
    began = time.monotonic()
    alerter.close(0.3)

    assert time.monotonic() - began < 2
    assert counted(metrics, "dropped") == 1
    assert "1 alerts could not be told" in caplog.text


def test_without_a_url_an_alert_is_logged_and_no_thread_is_started(caplog: pytest.LogCaptureFixture) -> None:
    before = threading.active_count()
    with caplog.at_level(logging.INFO):
        alerter = Alerter()
        alerter.fire("DeadLetters", summary="One came")
        alerter.fire("DeadLetters", summary="Another")
        alerter.resolve("DeadLetters")
        alerter.close()
    assert threading.active_count() == before
    assert [record.getMessage() for record in caplog.records] == [
        "alert DeadLetters: One came",
        "alert DeadLetters is over",
    ]


def test_without_a_url_every_alert_is_logged_however_many_there_were(caplog: pytest.LogCaptureFixture) -> None:
    alerter = Alerter(most_alerts=10)
    for number in range(100):
        alerter.fire("DeadLetters", labels={"queue": str(number)}, summary="One came")
    assert len(caplog.records) == 100


def test_credentials_go_to_the_webhook_and_nowhere_else(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.behaviour = "broken"
    url = receiver.url.replace("http://", "http://me:gehe%2Fim@") + "/T0KEN?key=S3CRET"
    alerter = Alerter(url, group_wait_seconds=0.01)
    alerter.fire("X", summary="see amqp://u:hunter2@h/v")
    poll(lambda: receiver.requests)
    alerter.close(0.1)

    path, authorization = receiver.requests[0]
    assert path == "/hook/T0KEN?key=S3CRET"
    assert base64.b64decode(authorization.removeprefix("Basic ")) == b"me:gehe/im"
    for secret in ("gehe", "T0KEN", "S3CRET", "hunter2"):
        assert secret not in caplog.text


@pytest.mark.parametrize("url", ["ftp://h/x", "h/x", "http://", "http://h:x/", "http://u:p/w@h/"])
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="OUTHAUL_ALERT_WEBHOOK_URL"):
        Alerter(url, setting="OUTHAUL_ALERT_WEBHOOK_URL")

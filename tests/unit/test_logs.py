"""Logs: one JSON object a line, with no credentials in it, whatever is thrown at them."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from outhaul.configuration.redaction import redact, redact_url
from outhaul.errors import ConfigurationError
from outhaul.logs import configure_logging

SECRET = "hunter2-geheim"


def fail(message: str) -> None:
    raise ValueError(message)


Logged = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, pika_level = root.handlers[:], root.level, logging.getLogger("pika").level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("pika").setLevel(pika_level)


@pytest.fixture
def logged() -> Logged:
    stream = io.StringIO()
    configure_logging(stream=stream)

    def log(*arguments: object, **options: Any) -> dict[str, Any]:
        stream.truncate(stream.seek(0))
        logging.getLogger("outhaul.test").warning(*arguments, **options)
        [line] = stream.getvalue().splitlines()
        event = json.loads(line)
        assert isinstance(event, dict)
        return event

    return log


def test_an_event_is_one_json_object_with_its_fields(logged: Logged) -> None:
    event = logged("sent %d\nmessages", 3, extra={"route": "order.created", "count": 3, "ok": True})

    assert event["message"] == "sent 3\nmessages"
    assert (event["level"], event["logger"], event["route"], event["count"]) == (
        "warning",
        "outhaul.test",
        "order.created",
        3,
    )
    assert event["time"].endswith("Z")


def test_what_json_cannot_carry_is_shown_as_text(logged: Logged) -> None:
    event = logged("x", extra={"thing": object, "nan": float("nan"), "set": {1}, "nested": {1: b"\x00"}})

    assert event["nan"] == "nan"
    assert event["set"] == [1]
    assert event["nested"] == {"1": "b'\\x00'"}


def test_no_credential_gets_into_a_line(logged: Logged) -> None:
    dsn = f"host=h user=u password='{SECRET} x'"
    try:
        fail(f"amqp://u:{SECRET}@h/v refused")
    except ValueError:
        event = logged(
            "lost %s", dsn, exc_info=True, extra={"dsn": [f"postgresql://u:{SECRET}@h/db"], "o": {"password": SECRET}}
        )
    assert SECRET not in json.dumps(event)
    assert event["error"]["type"] == "ValueError"
    assert event["error"]["message"] == "amqp://***@h/v refused"


def test_text_for_people_hides_them_too() -> None:
    stream = io.StringIO()
    configure_logging(form="text", stream=stream)
    try:
        fail(f"amqp://u:{SECRET}@h/v")
    except ValueError:
        logging.getLogger("outhaul.test").exception("lost", extra={"dsn": f"host=h password={SECRET}"})

    assert "error outhaul.test  lost  dsn=host=h password=***" in stream.getvalue()
    assert SECRET not in stream.getvalue()


def test_below_the_level_nothing_is_written() -> None:
    stream = io.StringIO()
    configure_logging("error", stream=stream)
    logging.getLogger("outhaul.test").warning("quiet")
    assert not stream.getvalue()


def test_an_unknown_level_or_form_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="write one of: debug, info"):
        configure_logging("loud")
    with pytest.raises(ConfigurationError, match="write one of: json, text"):
        configure_logging(form="xml")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"amqp://u:{SECRET}@h:5672/v?password={SECRET}", "amqp://***@h:5672/v"),
        (f"amqp://u:{SECRET}", "amqp://u:***"),
        ("amqp://h:5672/v", "amqp://h:5672/v"),
        ("http://[::1]/x", "http://[::1]/x"),
        (SECRET, "***"),
    ],
)
def test_a_url_is_shown_without_credentials(text: str, shown: str) -> None:
    assert redact_url(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        f"password={SECRET}",
        f"PGPASSWORD = {SECRET}",
        f"password='a \\' {SECRET}' host=h",
        f'{{"password": "{SECRET}"}}',
        f"sslpassword={SECRET}&x=1",
        f"see ('postgresql://u:{SECRET}@h/db',)",
    ],
)
def test_a_password_in_running_text_is_hidden(text: str) -> None:
    assert SECRET not in redact(text)

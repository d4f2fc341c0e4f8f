"""Asking over HTTP within a deadline."""

from __future__ import annotations

import socket
import threading

import pytest

from outhaul.broker_admin import http_call


class _Never(threading.Timer):
    def run(self) -> None:
        pass


@pytest.mark.parametrize("timer", [threading.Timer, _Never], ids=["the clock first", "the socket first"])
def test_a_server_that_is_silent_is_told_of_in_the_same_words_whichever_notices_first(
    timer: type[threading.Timer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words that change from one look to the next would be written into a status each time."""
    monkeypatch.setattr(threading, "Timer", timer)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(TimeoutError, match=r"^no answer within 0\.2 s$"),
    ):
        http_call.call("GET", f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout_seconds=0.2)

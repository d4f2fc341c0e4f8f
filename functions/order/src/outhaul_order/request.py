"""One POST as it arrives: the headers that count, and a body that is bounded in size and time.

Written against ASGI itself: this is the hot path, and a framework's request object costs more than the rest of it.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from starlette.types import Receive, Scope

from outhaul.hosting.problems import Problem
from outhaul_order import problems

BODY_SECONDS: Final = 10.0
# A client that is still sending when the answer comes sees a reset instead of the answer, unless what it sends is read
# for a while (nginx calls it lingering close). Nothing of it is kept.
LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 32 * 1024 * 1024


class Disconnected(Exception):
    """The client went away before its request was complete; there is nobody to answer."""


class Head(NamedTuple):
    """What the headers of one request say."""

    content_types: list[bytes]
    content_length: int | None
    idempotency_keys: list[bytes]
    traceparent: bytes | None
    encoded: bool


def head_of(scope: Scope) -> Head:
    """The headers that count. uvicorn gives their names in lower case and has checked Content-Length."""
    content_types: list[bytes] = []
    keys: list[bytes] = []
    length = traceparent = None
    encoded = False
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_types.append(value)
        elif name == b"content-length":
            length = int(value)
        elif name == b"idempotency-key":
            keys.append(value)
        elif name == b"traceparent":
            traceparent = value
        elif name == b"content-encoding":
            encoded = value.strip().lower() != b"identity"
    return Head(content_types, length, keys, traceparent, encoded)


def require_json(head: Head) -> None:
    """Refuse a body that is not declared as JSON in UTF-8. Raises Problem."""
    if head.encoded:
        raise Problem(problems.UNSUPPORTED_MEDIA_TYPE, "send the body without encoding", field="Content-Encoding")
    if head.content_types == [b"application/json"]:
        return
    given = b", ".join(head.content_types)
    media_type, _, parameters = given.partition(b";")
    if media_type.strip().lower() != b"application/json":
        shown = given[:100].decode("latin-1") or "nothing"
        detail = f"send application/json; {shown!r} was declared"
        raise Problem(
            problems.UNSUPPORTED_MEDIA_TYPE, detail, field="Content-Type", headers={"Accept": "application/json"}
        )
    name, _, charset = parameters.strip().lower().partition(b"=")
    if name == b"charset" and charset.strip(b'"') not in {b"utf-8", b"utf8", b"us-ascii"}:
        raise Problem(problems.UNSUPPORTED_MEDIA_TYPE, "send the JSON in UTF-8", field="Content-Type")


async def read_body(head: Head, receive: Receive, *, limit_bytes: int) -> bytes:
    """The whole body, if it is no larger than the limit and arrives in time. Raises Problem or Disconnected."""
    if head.content_length is not None and head.content_length > limit_bytes:
        raise _too_large(limit_bytes)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            message = await receive()
            body = message.get("body", b"")
            while message.get("more_body", False):
                if len(body) > limit_bytes:
                    break
                message = await receive()
                body += message.get("body", b"")
    except TimeoutError as error:
        detail = f"the body was not complete after {BODY_SECONDS:g} s"
        raise Problem(problems.SLOW_REQUEST, detail, headers={"Connection": "close"}) from error
    if message["type"] == "http.disconnect":
        raise Disconnected
    if len(body) > limit_bytes:
        raise _too_large(limit_bytes)
    return bytes(body)


async def linger(receive: Receive) -> None:
    """Read and forget what the client is still sending, within bounds, so that it comes to see its answer."""
    left = LINGER_BYTES
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def _too_large(limit_bytes: int) -> Problem:
    detail = f"at most {limit_bytes} bytes are taken"
    return Problem(problems.BODY_TOO_LARGE, detail, field="body", headers={"Connection": "close"})

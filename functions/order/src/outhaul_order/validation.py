"""From the bytes of a request to an order that can be written, or the problem with them. Pure; nothing is coerced.

What the types cannot say is checked here: text PostgreSQL cannot hold, the sum over the lines, fields given twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from outhaul.hosting.problems import Problem
from outhaul_order import problems
from outhaul_order.models import MAX_CENTS, NewOrder

MAX_KEY_LENGTH: Final = 255
_KEY: Final = re.compile(rb"[\x21-\x7e]{1,255}")
_WHERE: Final = re.compile(r" - at `\$\.?(.*)`$")
_FIELD_NAMED: Final = re.compile(r"^Object (?:contains unknown|missing required) field `(.*)`$", re.DOTALL)
_decode: Final[Callable[[bytes], NewOrder]] = msgspec.json.Decoder(NewOrder).decode

_QUOTES_OF_ORDER: Final = 6  # around two names and the customer
_QUOTES_OF_LINE: Final = 8  # around three names and the sku


class ValidOrder(NamedTuple):
    """An order whose every part can be written and sent. ``total_cents`` is the sum over its lines."""

    order: NewOrder
    total_cents: int


def parse_order(body: bytes) -> ValidOrder:
    """The order in the body. Raises Problem naming the field."""
    try:
        order = _decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(problems.MALFORMED_JSON, _sentence(str(error)), field="body") from error
    if body.count(b'"') != _QUOTES_OF_ORDER + _QUOTES_OF_LINE * len(order.lines):
        # Escaped quotes, or a field given twice; the parser keeps the last of two, and another may keep the first.
        _refuse_duplicates(body)
    _check_text("customer", order.customer)
    total_cents = 0
    for index, line in enumerate(order.lines):
        _check_text("sku", line.sku, index)
        total_cents += line.quantity * line.unit_price_cents
    if total_cents > MAX_CENTS:
        detail = f"the sum of quantity x unit_price_cents is {total_cents}; at most {MAX_CENTS} is taken"
        raise Problem(problems.INVALID_FIELD, detail, field="lines")
    return ValidOrder(order, total_cents)


def parse_idempotency_key(values: list[bytes]) -> str | None:
    """The key in the `Idempotency-Key` headers of one request; None when there is none. Raises Problem."""
    if not values:
        return None
    if len(values) > 1:
        raise Problem(problems.BAD_IDEMPOTENCY_KEY, "the header is given more than once", field="Idempotency-Key")
    if not _KEY.fullmatch(values[0]):
        detail = f"must be 1 to {MAX_KEY_LENGTH} visible ASCII characters without spaces; {len(values[0])} bytes given"
        raise Problem(problems.BAD_IDEMPOTENCY_KEY, detail, field="Idempotency-Key")
    return values[0].decode("ascii")


def _check_text(name: str, text: str, index: int | None = None) -> None:
    if "\x00" in text:
        trouble = "contains NUL (U+0000), which cannot be stored"
    elif not text or text.isspace():
        trouble = "must not be blank"
    else:
        return
    field = name if index is None else f"lines[{index}].{name}"
    raise Problem(problems.INVALID_FIELD, trouble, field=field)


def _invalid(message: str) -> Problem:
    """A problem from msgspec's message, which ends in the path of what is wrong, or names a field of it."""
    where = _WHERE.search(message)
    path = where[1] if where else ""
    what = message[: where.start()] if where else message
    named = _FIELD_NAMED.match(what)
    if named:
        path = f"{path}.{named[1]}" if path else named[1]
        what = "is no field of an order" if "unknown" in what else "is missing"
    return Problem(problems.INVALID_FIELD, _sentence(what), field=_shown(path) or "body")


def _refuse_duplicates(body: bytes) -> None:
    def pairs(items: list[tuple[str, object]]) -> None:
        names = [name for name, _ in items]
        for name in names:
            if names.count(name) > 1:
                raise Problem(problems.INVALID_FIELD, "is given more than once in one object", field=_shown(name))

    json.loads(body, object_pairs_hook=pairs)


def _sentence(text: str) -> str:
    begin = text if text[:2].isupper() else text[:1].lower() + text[1:]  # "JSON is malformed" stays
    return _shown(begin, 300)


def _shown(text: str, limit: int = 100) -> str:
    """Text of the client's own making, short enough to be given back."""
    return text if len(text) <= limit else text[:limit] + "…"
